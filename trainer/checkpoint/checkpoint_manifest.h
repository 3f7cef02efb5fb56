#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"

namespace olmoe {

/// A file of a checkpoint that is not what was written: another size or hash, or not readable as its format. Files that
/// the system refuses to read, and those of a newer format, are not damaged: they are CheckpointError alone.
class DamagedCheckpoint : public CheckpointError {
 public:
  explicit DamagedCheckpoint(const std::string& message) : CheckpointError(message) {}
};

/// The file of a checkpoint that is written last: the run's config and progress, size and hashes of every other file,
/// and a hash of itself. A folder without a valid manifest is not a checkpoint.
struct Manifest {
  struct ShardFile {
    std::string name;
    int64_t size_bytes = 0;
    int64_t header_bytes = 0;  ///< as safetensors::Written; none of these in format version 1
    std::string header_hash;
    std::vector<std::string> block_hashes;
    std::string xxh3_128 = {};  ///< of the whole file, in format version 1 alone
    size_t num_blocks() const;  ///< of the data part
  };
  int64_t step = 0;
  int64_t sequences = 0;  ///< consumed from the shuffled stream; the data loader resumes there
  int64_t tokens = 0;
  int64_t optimizer_steps =
      0;               ///< that AdamW's moments have seen: `step`, and more where they were kept from another run
  std::string config;  ///< resolved, YAML
  std::string data_fingerprint;
  std::map<std::string, std::string> made_by;  ///< world, mesh, threads, CPU features, versions, git commit
  /// Steps without a token, of the experts that had none in the last one, by "layer.expert": counted from 0, of blocks
  /// with experts.
  std::map<std::string, int64_t> idle_experts = {};
  std::vector<ShardFile> files;

  /// Writes `folder`/manifest.json in the newest format and fsyncs it. Throws FileError with the path and errno's text.
  void write(const std::string& folder) const;
  /// Reads `folder`/manifest.json, of this format version or an older one, and verifies its hash. Throws
  /// DamagedCheckpoint with the path and the problem, or CheckpointError where it is of a newer version or cannot be
  /// read.
  static Manifest read(const std::string& folder);
};

}  // namespace olmoe
