#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace olmoe {

/// A folder that is there complete or not at all. It is filled under a temporary name beside the target,
/// .tmp_NAME.XXXXXX, which commit() renames; without a commit the destructor removes it.
class NewFolder {
 public:
  /// Makes the temporary folder, and the target's parent where it is missing. Throws ConfigError where the target
  /// exists, and CheckpointError where nothing can be written there.
  explicit NewFolder(const std::string& target);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

  /// Runs `work` with the path to write to. An error of the disk becomes a CheckpointError with the space that is
  /// needed and free; errors with another exit code stay what they are.
  void fill(int64_t needed_bytes, const std::function<void(const std::string& folder)>& work) const;
  /// Gives the folder its name, durably. Throws ConfigError where that was taken meanwhile.
  void commit();

 private:
  std::string target_, temporary_;
};

}  // namespace olmoe
