// Shared by the kernel tests: reproducible inputs, and errors relative to a reference.
//
// The error model. A result is a sum of terms. A computation in a working dtype has an error of at most bound() of its
// largest term, from the roundings of the sum and of the functions in it. Compared with a float64 reference, which is
// exact in comparison, the tolerance is bound(). Between two rounded results, of a GPU and a CPU, it is twice bound(),
// since their errors may have opposite signs. Where terms cancel, the error is relative to the terms, which the test
// then passes (`terms` of relative_error).
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

inline at::ScalarType statistics_dtype(at::ScalarType dtype) { return dtype == at::kDouble ? at::kDouble : at::kFloat; }

/// The same values as a float64 leaf, for a reference that autograd differentiates.
inline at::Tensor reference(const at::Tensor& x) { return x.detach().to(at::kDouble).clone().requires_grad_(true); }

/// max|actual - expected| / max|terms|; infinite if shapes differ or a value is not finite. `terms`: the terms of the
/// sum `expected`, at their largest, if they cancel; by default `expected` itself.
inline double relative_error(const at::Tensor& actual, const at::Tensor& expected, const at::Tensor& terms = {}) {
  if (actual.sizes() != expected.sizes()) return std::numeric_limits<double>::infinity();
  if (expected.numel() == 0) return 0;
  const at::Tensor reference_value = expected.detach().to(at::kDouble);
  const double error = (actual.to(at::kDouble) - reference_value).abs().max().item<double>();
  const at::Tensor largest = terms.defined() ? terms.detach().to(at::kDouble) : reference_value;
  const double scale = largest.abs().max().item<double>();
  if (!std::isfinite(error)) return std::numeric_limits<double>::infinity();
  return scale == 0 ? error : error / scale;
}

/// Relative error bound of a sum of n products in `dtype` with `functions` consecutive functions such as exp. float64:
/// 1e-12. fp32: a random walk of n roundings, and 2 ulp for each function (the CUDA guide's bound for expf; ours on a
/// CPU has 1.5). bf16: that of fp32, and 2^-8 for each of the `bf16_roundings` of stored values (half a unit of 8
/// bits).
inline double bound(at::ScalarType dtype, int64_t n, int bf16_roundings = 1, int functions = 0) {
  if (dtype == at::kDouble) return 1e-12;
  const double fp32 = 4 * (std::sqrt(std::max<double>(n, 1)) + functions) * std::ldexp(1.0, -24);
  return dtype == at::kFloat ? fp32 : fp32 + bf16_roundings * std::ldexp(1.0, -8);
}

/// The terms of a normalised row's gradient, rstd (dy w - x p) with p = rstd^2 mean(dy w x). In a row of one element
/// they cancel to a fraction eps rstd^2 of their size.
inline at::Tensor rms_norm_grad_terms(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& w_D,
                                      const at::Tensor& rstd_N) {
  if (x_ND.numel() == 0) return {};
  const auto rstd_N1 = rstd_N.to(at::kDouble).unsqueeze(1), x = x_ND.to(at::kDouble);
  const auto along_w = dy_ND.to(at::kDouble) * w_D.to(at::kDouble);
  const auto along_x = x * (along_w * x).mean(1, /*keepdim=*/true) * rstd_N1.square();
  return rstd_N1 * (along_w.abs() + along_x.abs());
}

/// True for equal bits (NaN included), shape and dtype. Throws Error for tensors that are not in host memory: pass
/// .cpu() of those on a GPU.
inline bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  for (const at::Tensor* x : {&a, &b})
    ENSURE(x->is_cpu(), "same_bits reads host memory, and a tensor is on {}: give it .cpu()", x->device().str());
  if (a.sizes() != b.sizes() || a.scalar_type() != b.scalar_type()) return false;
  const at::Tensor x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

/// Runs a test body on two intra-op threads, and restores their number.
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
