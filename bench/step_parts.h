// The kernels of one training step, each with its own operands. Shapes: docs/glossary.md; R = N*K routed rows.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe::bench {

struct BatchShape {
  int64_t sequences, length;
  int64_t tokens() const { return sequences * length; }
};

/// One kernel call, or a few that are always called together.
struct Part {
  std::string name;
  int64_t count;  ///< calls of `run` in one step
  std::function<void()> run;
  std::function<void()> floor;  ///< lower bound: its GEMMs or attention through ATen; empty: none
};

/// Everything between embedding and loss, forward and backward, as model/*.cpp calls it in `dtype`.
std::vector<Part> model_parts(const ModelConfig& model, BatchShape batch, at::ScalarType dtype);

/// Normally distributed, from a generator of its own.
at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype);

}  // namespace olmoe::bench
