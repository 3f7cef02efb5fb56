#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/conversion/saved_model.h"

namespace olmoe {

/// A tensor of two models whose values are not all equal.
struct TensorDifference {
  std::string tensor;  ///< "weight head.weight"
  int64_t numel, differing;
  double largest;  ///< |a - b|; infinite where only one of them is a number
  double scale;    ///< largest |a| of the tensor
  int64_t at;      ///< element of the largest
  double a, b;     ///< its values
};

struct Comparison {
  std::vector<std::string> config;  ///< "model.top_k: 8 -> 4"
  std::vector<std::string> only_a, only_b;
  std::vector<std::string> sizes;         ///< tensors of both, of different numbers of elements
  std::vector<TensorDifference> tensors;  ///< the largest first
  int64_t compared = 0;
  bool equal() const { return only_a.empty() && only_b.empty() && sizes.empty() && tensors.empty(); }
};

/// Compares configs (of a Hugging Face folder the model alone) and every tensor that both have, in float64.
Comparison compare_models(const SavedModel& a, const SavedModel& b, const Progress& progress);

/// As text: what differs, and the `top` largest differences of values.
std::string describe(const Comparison& comparison, size_t top);

}  // namespace olmoe
