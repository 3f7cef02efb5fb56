// Weights of the successor's vectors, which are values of one rule.
#pragma once
#include <ATen/ATen.h>

namespace olmoe::test {

/// scale * sin(1.1 n + 0.05 n^2 + salt) at element n, counted from 1 in row-major order; float64.
inline at::Tensor by_rule(double salt, at::IntArrayRef shape, double scale = 1) {
  const auto numel = c10::multiply_integers(shape);
  const auto n = at::arange(1, numel + 1, at::kDouble);
  return (scale * (1.1 * n + 0.05 * n.square() + salt).sin()).view(shape);
}

}  // namespace olmoe::test
