#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/files/file_lock.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/tensor_pieces.h"
#include "trainer/checkpoint/verified_file.h"

namespace olmoe {

/// A tensor of a checkpoint, joined over all of its files: flat.
struct SavedTensor {
  std::string kind;  ///< "weight", "exp_avg", "exp_avg_sq", "momentum" or "buffer"
  std::string name;  ///< of the parameter or buffer
  int64_t numel = 0;
  safetensors::Dtype dtype = safetensors::Dtype::f32;  ///< in the files
};

/// Reads any range of a checkpoint's tensors, written by any number of ranks, and verifies each block that it reads.
/// Makes no collective calls. Throws DamagedCheckpoint for what is not as it was written, and CheckpointError for what
/// the system refuses to read.
class CheckpointReader {
 public:
  /// Reads the manifest of a step's folder, and verifies the headers of all files. Throws CheckpointError, too, where
  /// two pieces of a tensor overlap or leave a hole, and for tensors that are not pieces of a state. While this object
  /// lives the run that saved the checkpoint does not remove it: lock_against_removal().
  explicit CheckpointReader(const std::string& step_folder);
  /// The same of a manifest that is known, without that lock: for the run itself.
  CheckpointReader(const std::string& step_folder, Manifest manifest);

  const Manifest& manifest() const { return manifest_; }
  const std::string& folder() const { return folder_; }
  /// In the order of kind and name.
  std::vector<SavedTensor> tensors() const;
  /// Reads elements [begin, begin + out.numel()) into `out`, a contiguous tensor on a CPU, converted to its dtype, and
  /// compares the hashes of the bytes that were read. Where that throws, `out` is not to be used. Takes 4 MiB of memory
  /// beside `out` where they have one dtype. Throws CheckpointError, too, where elements are missing.
  void read(const std::string& kind, const std::string& name, int64_t begin, const at::Tensor& out);
  /// Verifies every byte. Calls `progress`, if there is one, with the bytes that are done and those of all files.
  void verify_all(const std::function<void(int64_t done, int64_t all)>& progress = {});
  /// Bytes of the files that were read so far.
  int64_t read_bytes() const;

 private:
  void add(const VerifiedFile& file);
  void fetch(std::span<const std::byte> bytes, std::span<std::byte> out);

  std::string folder_;
  Manifest manifest_;
  std::optional<FileLock> lock_;
  std::vector<VerifiedFile> files_;
  VerifiedFile* last_ = nullptr;                      // the file that was read last
  TensorPieces pieces_;                               // named "kind:name"
  std::map<std::string, safetensors::Dtype> dtypes_;  // by the same names
};

}  // namespace olmoe
