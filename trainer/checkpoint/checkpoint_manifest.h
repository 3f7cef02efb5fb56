#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace olmoe {

/// The last file of a checkpoint to be written: what the run was, and every other file with size and hash.
/// It carries a hash of itself. A folder without a good manifest is no checkpoint.
struct Manifest {
  struct ShardFile {
    std::string name;
    int64_t size_bytes;
    std::string xxh3_128;
  };
  int64_t step = 0;
  int64_t sequences = 0;  ///< consumed from the shuffled stream: where the data loader goes on
  int64_t tokens = 0;
  std::string config;  ///< resolved, YAML
  std::string data_fingerprint;
  std::map<std::string, std::string> made_by;  ///< world, mesh, threads, CPU features, versions, git commit
  std::vector<ShardFile> files;

  /// Writes `folder`/manifest.json and fsyncs it.
  void write(const std::string& folder) const;
  /// Throws CheckpointError naming the file and what is wrong with it.
  static Manifest read(const std::string& folder);
};

}  // namespace olmoe
