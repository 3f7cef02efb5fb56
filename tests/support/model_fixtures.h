// What tests of model and trainer share: tiny models, batches, parameters by name.
#pragma once
#include <ATen/ATen.h>

#include <map>
#include <string>

#include "core/targets.h"
#include "data/batch.h"
#include "model/config.h"
#include "model/transformer.h"
#include "trainer/stage_runner.h"

namespace olmoe::test {

inline ModelConfig tiny_model() {
  ModelConfig model;
  model.vocab_size = 50;
  model.d_model = 24;
  model.num_layers = 3;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.num_experts = 5;
  model.top_k = 2;
  model.expert_width = 12;
  model.init_std = 0.3;  // large enough for every path to matter
  model.loss_chunk = 7;
  return model;
}

/// Widths that a GPU takes in bf16: rows of whole 16 bytes.
inline ModelConfig gpu_model() {
  auto model = tiny_model();
  model.d_model = 128;
  model.expert_width = 64;
  model.num_heads = 4;
  model.num_kv_heads = 2;
  model.init_std = 0.05;
  return model;
}

inline Batch batch_of(const at::Tensor& ids_BS) {
  auto targets = at::full_like(ids_BS, kIgnoredTarget);
  targets.narrow(1, 0, ids_BS.size(1) - 1).copy_(ids_BS.narrow(1, 1, ids_BS.size(1) - 1));
  return {ids_BS, targets, ids_BS.size(0) * (ids_BS.size(1) - 1)};
}

inline StageRunner::Options runner_options(at::ScalarType dtype, Residency residency = Residency::pooled,
                                           bool recompute = false) {
  return {dtype, at::kCPU, residency, recompute};
}

using FlatParams = std::map<std::string, at::Tensor>;

/// Whole flattened parameters by name, from a runner that is the only rank: its gradients or its weights.
inline FlatParams whole_params(const StageRunner& runner, at::Tensor ShardedUnit::*flat) {
  FlatParams out;
  for (const auto& unit : runner.units())
    for (const auto& slice : unit->slices())
      out[slice.name] = ((*unit).*flat).narrow(0, slice.offset, slice.end - slice.begin).clone();
  return out;
}

}  // namespace olmoe::test
