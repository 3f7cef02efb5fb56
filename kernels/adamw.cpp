#include "kernels/adamw.h"

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>

#include <numeric>
#include <vector>

#include "kernels/dtypes.h"
#include "kernels/row_loop.h"

namespace olmoe::kernels {

void adamw(at::Tensor param, at::Tensor grad, at::Tensor exp_avg, at::Tensor exp_avg_sq,
           const AdamWStep& step) {
  ensure_cpu(param, 1, "adamw: param");
  ENSURE(grad.sizes() == param.sizes() && exp_avg.sizes() == param.sizes() &&
             exp_avg_sq.sizes() == param.sizes(),
         "adamw: gradient and moments must be as long as the parameters, {}", param.numel());
  ENSURE(step.step >= 1, "adamw: steps count from 1, not {}", step.step);
  if (param.numel() == 0) return;
  if (step.grad_factor != 1) grad.mul_(step.grad_factor);
  const at::Tensor step_count = at::scalar_tensor(step.step, at::TensorOptions().dtype(at::kFloat));
  at::_fused_adamw_({param}, {grad}, {exp_avg}, {exp_avg_sq}, {}, {step_count}, step.lr, step.beta1,
                    step.beta2, step.weight_decay, step.eps, /*amsgrad=*/false, /*maximize=*/false);
}

at::Tensor squared_norm(const at::Tensor& x) {
  ENSURE(x.is_cpu(), "squared_norm: x must be a CPU tensor");
  constexpr int64_t kBlock = 16384;
  const at::Tensor dense = x.contiguous();
  const int64_t n = dense.numel(), blocks = (n + kBlock - 1) / kBlock;
  std::vector<double> partial(blocks);
  double* const partials = partial.data();
  for_dtype(dense.scalar_type(), [&]<typename T>() {
    const T* const values = dense.const_data_ptr<T>();
    for_rows(blocks, kBlock, [=](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = b * kBlock; i < std::min(n, (b + 1) * kBlock); ++i) {
          const double value = load(values[i]);
          sum += value * value;
        }
        partials[b] = sum;
      }
    });
  });
  return at::scalar_tensor(std::accumulate(partial.begin(), partial.end(), 0.0),
                           at::TensorOptions().dtype(at::kDouble));
}

}  // namespace olmoe::kernels
