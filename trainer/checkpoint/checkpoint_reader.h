#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/tensor_pieces.h"
#include "trainer/checkpoint/verified_file.h"

namespace olmoe {

/// A tensor of a checkpoint, joined over all of its files: flat.
struct SavedTensor {
  std::string kind;  ///< "weight", "exp_avg", "exp_avg_sq" or "buffer"
  std::string name;  ///< of the parameter or buffer
  int64_t numel = 0;
  safetensors::Dtype dtype = safetensors::Dtype::f32;  ///< in the files
};

/// Reads any range of a checkpoint's tensors, written by any number of ranks, and verifies the blocks that it reads
/// before it uses their values. Makes no collective calls. Throws DamagedCheckpoint for what is not as it was written,
/// and CheckpointError for what the system refuses to read.
class CheckpointReader {
 public:
  /// Reads the manifest of a step's folder, and verifies the headers of all files. Throws CheckpointError, too, where
  /// two pieces of a tensor overlap or leave a hole, and for tensors that are not pieces of a state.
  explicit CheckpointReader(const std::string& step_folder);
  CheckpointReader(const std::string& step_folder, Manifest manifest);

  const Manifest& manifest() const { return manifest_; }
  const std::string& folder() const { return folder_; }
  /// In the order of kind and name.
  std::vector<SavedTensor> tensors() const;
  /// Verifies the blocks of elements [begin, end) and uses none. Throws CheckpointError where some are missing.
  void verify(const std::string& kind, const std::string& name, int64_t begin, int64_t end);
  /// Copies elements [begin, begin + out.numel()) to `out`, converted to its dtype, after they were verified. Files
  /// stay mapped, but in memory only while they are read.
  void read(const std::string& kind, const std::string& name, int64_t begin, at::Tensor out);
  /// Verifies every byte. Calls `progress`, if there is one, with the bytes that are done and those of all files.
  void verify_all(const std::function<void(int64_t done, int64_t all)>& progress = {});
  /// Bytes of the files that were read to be verified so far.
  int64_t verified_bytes() const;

 private:
  void add(const VerifiedFile& file);

  std::string folder_;
  Manifest manifest_;
  std::vector<VerifiedFile> files_;
  TensorPieces pieces_;                               // named "kind:name"
  std::map<std::string, safetensors::Dtype> dtypes_;  // by the same names
};

}  // namespace olmoe
