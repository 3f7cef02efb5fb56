#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "model/config.h"
#include "model/init.h"
#include "trainer/checkpoint/tensor_pieces.h"
#include "trainer/conversion/hf_config.h"
#include "trainer/conversion/hf_names.h"

namespace olmoe {

/// The weights of a Hugging Face folder: model.safetensors, or shards with model.safetensors.index.json.
class HfWeights {
 public:
  /// Throws CheckpointError listing every tensor that is missing, unexpected, or of another shape.
  HfWeights(const std::string& folder, const ModelConfig& config);
  /// Reads [begin, begin + out.numel()) of our parameter or buffer, from F32, BF16, F16 or F64 tensors.
  /// Files stay mapped, but in memory only while they are read.
  void read(const std::string& name, int64_t begin, const at::Tensor& out) const;
  /// Of our parameter or buffer in the file; that of its first tensor, where they differ.
  safetensors::Dtype dtype(const std::string& name) const { return dtypes_.at(name); }
  /// The weights and buffers as a source of initial values. Throws ConfigError, naming keys, where config.json
  /// describes another model than `config`, even if its tensors fit.
  static ParamSource source(const std::string& folder, const ModelConfig& config);

 private:
  std::vector<std::unique_ptr<safetensors::File>> files_;
  TensorPieces pieces_;
  std::map<std::string, safetensors::Dtype> dtypes_;
};

}  // namespace olmoe
