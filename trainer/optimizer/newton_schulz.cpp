#include "trainer/optimizer/newton_schulz.h"

#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_vector_norm.h>

#include "core/error.h"

namespace olmoe {

at::Tensor newton_schulz(const at::Tensor& x_BRC, const NewtonSchulz& rule) {
  ENSURE(x_BRC.dim() == 3 && x_BRC.is_contiguous(), "newton_schulz: {} dimensions, or not contiguous: want [B, R, C]",
         x_BRC.dim());
  constexpr double kSmallestNorm = 1e-7;
  const auto [a, b, c] = rule.coefficients;
  const bool tall = x_BRC.size(1) > x_BRC.size(2);
  const auto norm_B11 =
      at::linalg_vector_norm(x_BRC, 2, at::IntArrayRef{1, 2}, /*keepdim=*/true).clamp_min_(kSmallestNorm);
  auto x = (tall ? x_BRC.transpose(1, 2) : x_BRC).clone(at::MemoryFormat::Contiguous).div_(norm_B11);
  for (int64_t step = 0; step < rule.steps; ++step) {
    auto gram_Bnn = at::bmm(x, x.transpose(1, 2));
    const auto polynomial_Bnn = at::baddbmm(gram_Bnn, gram_Bnn, gram_Bnn, /*beta=*/b, /*alpha=*/c);
    gram_Bnn.reset();
    x = at::baddbmm(x, polynomial_Bnn, x, /*beta=*/a);
  }
  return tall ? x.transpose(1, 2).contiguous() : x;
}

}  // namespace olmoe
