#include "trainer/generation/inference_model.h"

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <bit>

#include "core/error.h"

namespace olmoe {
namespace {

constexpr int64_t kReadElements = 16 << 20;  // of a parameter at a time

const ModelConfig& checked(const ModelConfig& config) {
  if (config.experts_choose())
    throw ConfigError(
        "model.routing: expert_choice: which experts take a token depends on later tokens, so that no text can be "
        "generated token by token");
  return config;
}

int64_t numel_of(const std::vector<int64_t>& shape) {
  int64_t out = 1;
  for (const int64_t size : shape) out *= size;
  return out;
}

at::Tensor on_cpu(std::span<const int64_t> ids) {
  return at::tensor(at::ArrayRef<int64_t>(ids.data(), ids.size()), at::kLong);
}

}  // namespace

InferenceModel::InferenceModel(const ModelConfig& config, at::ScalarType dtype, const ParamSource& weights,
                               const BufferValues& buffers)
    : config_(checked(config)),
      dtype_(dtype),
      world_(make_single_communicator()),
      mesh_(*world_, MeshShape{}),
      stages_(make_stages(config_, mesh_)) {
  at::NoGradGuard no_grad;
  read_weights(weights);
  read_buffers(buffers);
}

void InferenceModel::read_weights(const ParamSource& weights) {
  // Sources give fp32 or float64, which are rounded once.
  const auto read_as = dtype_ == at::kDouble ? at::kDouble : at::kFloat;
  for (const auto& stage : stages_)
    for (const auto& param : stage->state().params) {
      const int64_t numel = numel_of(param.shape);
      auto flat = at::empty({numel}, at::TensorOptions().dtype(dtype_));
      for (int64_t begin = 0; begin < numel; begin += kReadElements) {
        const int64_t count = std::min(kReadElements, numel - begin);
        auto part =
            dtype_ == read_as ? flat.narrow(0, begin, count) : at::empty({count}, at::TensorOptions().dtype(read_as));
        weights(param.name, param.first + begin, part);
        if (dtype_ != read_as) flat.narrow(0, begin, count).copy_(part);
      }
      *param.slot = flat.view(param.shape);
    }
}

void InferenceModel::read_buffers(const BufferValues& buffers) {
  for (const auto& stage : stages_)
    for (const auto& [name, tensor] : stage->state().buffers) {
      if (!buffers.names.contains(name)) continue;
      auto flat = at::empty({tensor->numel()}, tensor->options());
      buffers.source(name, 0, flat);
      *tensor = flat.view(tensor->sizes());
    }
}

at::Tensor InferenceModel::hidden(const at::Tensor& ids_BS, const KvCache* cache,
                                  std::span<const kernels::CachedRun> runs, const at::Tensor& positions_N) {
  const Batch batch{ids_BS, at::Tensor()};
  at::Tensor x_ND;  // undefined for the first stage, which reads the batch
  for (size_t s = 0; s + 1 < stages_.size(); ++s) {
    Routing routing;
    StageContext context{batch, Phase::score, routing};
    CachedTokens tokens;
    if (cache != nullptr && s > 0) {  // the embedding is stage 0
      tokens = {cache->block(s - 1), runs, positions_N};
      context.cached = &tokens;
    }
    x_ND = stages_[s]->forward(x_ND, context).y;
  }
  return x_ND;
}

at::Tensor InferenceModel::extend(KvCache& cache, std::span<const NewTokens> tokens) {
  at::NoGradGuard no_grad;
  std::vector<kernels::CachedRun> runs;
  std::vector<int64_t> ids, last_rows;
  std::vector<at::Tensor> positions;
  for (const auto& [sequence, new_ids] : tokens) {
    const auto first = cache.length(sequence), count = static_cast<int64_t>(new_ids.size());
    ENSURE(std::ranges::none_of(runs, [&](const auto& run) { return run.sequence == sequence; }),
           "sequence {} is extended twice at once", sequence);
    runs.push_back({sequence, first, count});
    positions.push_back(at::arange(first, first + count, at::kLong));
    ids.insert(ids.end(), new_ids.begin(), new_ids.end());
    last_rows.push_back(static_cast<int64_t>(ids.size()) - 1);
  }
  const auto x_ND = hidden(on_cpu(ids).unsqueeze(0), &cache, runs, at::cat(positions));
  cache.advance(runs);
  return head().logits(x_ND.index_select(0, on_cpu(last_rows)));
}

at::Tensor InferenceModel::logits(std::span<const int64_t> ids) {
  at::NoGradGuard no_grad;
  return head().logits(hidden(on_cpu(ids).unsqueeze(0)));
}

at::Tensor InferenceModel::last_logits(std::span<const int64_t> ids, int64_t most) {
  constexpr uint64_t kShortest = 32;
  at::NoGradGuard no_grad;
  const auto length = static_cast<int64_t>(ids.size());
  ENSURE(length > 0 && length <= most, "{} tokens where at most {} are computed", length, most);
  const auto padded = std::min(most, static_cast<int64_t>(std::bit_ceil(std::max<uint64_t>(kShortest, ids.size()))));
  const auto padding = at::zeros({padded - length}, at::TensorOptions().dtype(at::kLong));
  const auto x_ND = hidden(at::cat({on_cpu(ids), padding}).unsqueeze(0));
  return head().logits(x_ND.narrow(0, length - 1, 1)).squeeze(0);
}

}  // namespace olmoe
