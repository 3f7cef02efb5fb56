#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "model/init.h"
#include "trainer/conversion/progress.h"

/// Whole models are read, converted and written in pieces: the memory is that of some pieces, whatever the model.
namespace olmoe {

inline constexpr int64_t kPieceElements = 1 << 20;

/// A parameter of a model with all experts.
struct WholeParam {
  std::string name;
  std::vector<int64_t> shape;
  int64_t numel;
};
/// In the order of the stages.
std::vector<WholeParam> whole_params(const ModelConfig& config);

/// A range of a flattened parameter or buffer that becomes a tensor of a file.
struct StreamedTensor {
  std::string tensor;  ///< its name in the file
  std::vector<int64_t> shape;
  std::string name;  ///< ours
  int64_t first;     ///< element of it
};
int64_t numel_of(const std::vector<int64_t>& shape);

/// Turns ranges of a source into items of a file.
class ParamStream {
 public:
  /// `all_bytes`: those of all items, for `progress`.
  ParamStream(ParamSource source, int64_t all_bytes, Progress progress);
  /// `dtype`: f32, bf16, f16 or f64. This object must outlive the item. Its producer throws an Error with
  /// ExitCode::non_finite for a value that is not finite, and ConfigError for one that float16 cannot hold.
  safetensors::Item item(const StreamedTensor& tensor, safetensors::Dtype dtype);

 private:
  void produce(const StreamedTensor& tensor, safetensors::Dtype stored, const safetensors::Sink& sink);

  ParamSource source_;
  int64_t all_bytes_, done_bytes_ = 0;
  Progress progress_;
};

}  // namespace olmoe
