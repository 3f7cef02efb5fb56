// What the kernel tests share: reproducible inputs, and errors held against a float64 reference.
#pragma once
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "core/error.h"
#include "support/catch.h"

namespace olmoe::kernels::testing {

inline const std::vector<at::ScalarType> kDtypes = {at::kFloat, at::kDouble, at::kBFloat16};

/// Standard normal values, the same for the same seed.
inline at::Tensor normal(at::IntArrayRef sizes, at::ScalarType dtype, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::empty(sizes, at::kDouble).normal_(0, 1, generator).to(dtype);
}

inline at::ScalarType statistics_dtype(at::ScalarType dtype) {
  return dtype == at::kDouble ? at::kDouble : at::kFloat;
}

/// The same values as a float64 leaf, for a reference that autograd differentiates.
inline at::Tensor reference(const at::Tensor& x) {
  return x.detach().to(at::kDouble).clone().requires_grad_(true);
}

/// max|actual - expected| / max|expected|; infinite where shapes differ or a value is not finite.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  if (expected.numel() == 0) return 0;
  const at::Tensor reference_value = expected.detach().to(at::kDouble);
  const double error = (actual.to(at::kDouble) - reference_value).abs().max().item<double>();
  const double scale = reference_value.abs().max().item<double>();
  if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
  return scale == 0 ? error : error / scale;
}

/// Error bound of a sum of n products in `dtype`: float64 1e-12; fp32 a random walk of n roundings;
/// bf16 in fp32 statistics, so only the `bf16_roundings` of stored values count (2^-8 each, half a
/// unit of 8 bits).
inline double bound(at::ScalarType dtype, int64_t n, int bf16_roundings = 1) {
  if (dtype == at::kDouble) return 1e-12;
  const double fp32 = 4 * std::sqrt(std::max<double>(n, 1)) * std::ldexp(1.0, -24);
  return dtype == at::kFloat ? fp32 : fp32 + bf16_roundings * std::ldexp(1.0, -8);
}

/// The same bits (NaN included), shape and dtype.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

/// Runs a test body on two intra-op threads, and puts the number back.
class TwoThreads {
 public:
  TwoThreads() : before_(at::get_num_threads()) { at::set_num_threads(2); }
  ~TwoThreads() { at::set_num_threads(before_); }
  TwoThreads(const TwoThreads&) = delete;
  TwoThreads& operator=(const TwoThreads&) = delete;

 private:
  int before_;
};

}  // namespace olmoe::kernels::testing
