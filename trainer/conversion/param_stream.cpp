#include "trainer/conversion/param_stream.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "model/transformer.h"
#include "trainer/checkpoint/tensor_pieces.h"

namespace olmoe {
namespace {

at::ScalarType scalar_type(safetensors::Dtype dtype) {
  const auto type = weight_dtype(dtype);
  if (!type) throw Error(fmt::format("weights are not written as {}", safetensors::name(dtype)));
  return *type;
}

/// The first element that is not finite, or -1.
int64_t first_not_finite(const at::Tensor& flat) {
  const auto finite = at::isfinite(flat);
  return finite.all().item<bool>() ? -1 : finite.logical_not().nonzero()[0].item<int64_t>();
}

}  // namespace

std::vector<WholeParam> whole_params(const ModelConfig& config) {
  std::vector<WholeParam> out;
  for (const auto& stage : list_params(config))
    for (const auto& param : stage) out.push_back({param.name, param.global_shape, numel_of(param.global_shape)});
  return out;
}

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t numel = 1;
  for (const auto extent : shape) numel *= extent;
  return numel;
}

ParamStream::ParamStream(ParamSource source, int64_t all_bytes, Progress progress)
    : source_(std::move(source)), all_bytes_(all_bytes), progress_(std::move(progress)) {}

safetensors::Item ParamStream::item(const StreamedTensor& tensor, safetensors::Dtype dtype) {
  return {tensor.tensor, dtype, tensor.shape, {}, [this, tensor, dtype](const auto& sink) {
            produce(tensor, dtype, sink);
          }};
}

void ParamStream::produce(const StreamedTensor& tensor, safetensors::Dtype stored, const safetensors::Sink& sink) {
  const auto dtype = scalar_type(stored);
  const int64_t numel = numel_of(tensor.shape);
  for (int64_t done = 0; done < numel; done += kPieceElements) {
    const int64_t count = std::min(kPieceElements, numel - done);
    const auto read = at::empty({count}, dtype == at::kDouble ? at::kDouble : at::kFloat);
    source_(tensor.name, tensor.first + done, read);
    if (const auto bad = first_not_finite(read); bad >= 0)
      throw Error(fmt::format("{}: element {} is {}: weights must be finite", tensor.name, tensor.first + done + bad,
                              read[bad].item<double>()),
                  ExitCode::non_finite);
    const auto converted = read.to(dtype);
    if (const auto bad = dtype == read.scalar_type() ? -1 : first_not_finite(converted); bad >= 0)
      throw ConfigError(fmt::format("{}: element {} is {}, which {} cannot hold: choose another dtype", tensor.name,
                                    tensor.first + done + bad, read[bad].item<double>(), safetensors::name(stored)));
    sink({static_cast<const std::byte*>(converted.const_data_ptr()), converted.nbytes()});
    done_bytes_ += static_cast<int64_t>(converted.nbytes());
    if (progress_) progress_(done_bytes_, all_bytes_);
  }
}

}  // namespace olmoe
