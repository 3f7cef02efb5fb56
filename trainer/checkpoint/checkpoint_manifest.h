#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace olmoe {

/// The file of a checkpoint that is written last: the run's config and progress, size and hash of every other file, and
/// a hash of itself. A folder without a valid manifest is not a checkpoint.
struct Manifest {
  struct ShardFile {
    std::string name;
    int64_t size_bytes = 0;
    std::string xxh3_128;
  };
  int64_t step = 0;
  int64_t sequences = 0;  ///< consumed from the shuffled stream; the data loader resumes there
  int64_t tokens = 0;
  std::string config;  ///< resolved, YAML
  std::string data_fingerprint;
  std::map<std::string, std::string> made_by;  ///< world, mesh, threads, CPU features, versions, git commit
  std::vector<ShardFile> files;

  /// Writes `folder`/manifest.json and fsyncs it. Throws Error with the path and errno text.
  void write(const std::string& folder) const;
  /// Reads `folder`/manifest.json and verifies its hash. Throws CheckpointError with the path and the problem.
  static Manifest read(const std::string& folder);
};

}  // namespace olmoe
