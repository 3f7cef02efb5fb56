#include "kernels/rms_norm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "kernels/cuda_kernels.h"
#include "kernels/dtypes.h"
#include "kernels/row_loop.h"

namespace olmoe::kernels {
namespace {

template <typename T>
void normalize_rows(const at::Tensor& x_ND, const T* w, double eps, T* y_all, Acc<T>* rstd_N) {
  const T* const x_all = x_ND.const_data_ptr<T>();
  const int64_t D = x_ND.size(1), x_stride = x_ND.stride(0);
  for_rows(x_ND.size(0), D, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* const x = x_all + n * x_stride;
      T* const y = y_all + n * D;
      Acc<T> square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
      for (int64_t j = 0; j < D; ++j) square_sum += load(x[j]) * load(x[j]);
      const Acc<T> rstd = inverse_rms(square_sum, D, static_cast<Acc<T>>(eps));
      rstd_N[n] = rstd;
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) y[j] = rms_normed(x[j], rstd, w[j]);
    }
  });
}

template <typename T>
void backward_rows(const at::Tensor& dy_ND, const at::Tensor& x_ND, const T* w,
                   const Acc<T>* rstd_N, T* dx_all, Acc<T>* dw) {
  const T *const dy_all = dy_ND.const_data_ptr<T>(), *const x_all = x_ND.const_data_ptr<T>();
  const int64_t D = x_ND.size(1), dy_stride = dy_ND.stride(0), x_stride = x_ND.stride(0);
  sum_over_rows(x_ND.size(0), D, dw, [=](int64_t begin, int64_t end, Acc<T>* dw_partial) {
    for (int64_t n = begin; n < end; ++n) {
      const T *const x = x_all + n * x_stride, *const dy = dy_all + n * dy_stride;
      T* const dx = dx_all + n * D;
      const Acc<T> rstd = rstd_N[n];
      Acc<T> dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < D; ++j) dot += load(dy[j]) * load(w[j]) * load(x[j]);
      const Acc<T> projection = rms_projection(dot, rstd, D);
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) {
        const auto grads = rms_norm_grads(load(dy[j]), x[j], w[j], rstd, projection);
        dw_partial[j] += grads.dw;
        dx[j] = rounded<T>(grads.dx);
      }
    }
  });
}

void ensure_operands(const at::Tensor& x_ND, const at::Tensor& w_D) {
  ensure_dim(x_ND, 2, "rms_norm: x");
  ensure_dim(w_D, 1, "rms_norm: weight");
  ensure_together(w_D, x_ND, "rms_norm: weight");
  ENSURE(w_D.size(0) == x_ND.size(1) && w_D.scalar_type() == x_ND.scalar_type(),
         "rms_norm: a weight of {} x {} does not fit rows of {} x {}", w_D.size(0),
         c10::toString(w_D.scalar_type()), x_ND.size(1), c10::toString(x_ND.scalar_type()));
}

}  // namespace

RmsNorm rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps) {
  ensure_operands(x_ND, w_D);
  const at::Tensor x = dense_rows(x_ND), w = w_D.contiguous();
  const auto dtype = x.scalar_type();
  RmsNorm out{at::empty(x.sizes(), x.options()),
              at::empty({x.size(0)}, x.options().dtype(acc_dtype(dtype)))};
  if (x.is_cuda()) return cuda::rms_norm(x, w, eps, out), out;
  for_dtype(dtype, [&]<typename T>() {
    normalize_rows<T>(x, w.const_data_ptr<T>(), eps, out.y_ND.data_ptr<T>(),
                      out.rstd_N.data_ptr<Acc<T>>());
  });
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& w_D,
                             const at::Tensor& rstd_N, at::Tensor dw_D) {
  ensure_operands(x_ND, w_D);
  ensure_weight_grad(dw_D, x_ND.scalar_type());
  ENSURE(dy_ND.sizes() == x_ND.sizes() && dw_D.sizes() == w_D.sizes(),
         "rms_norm_backward: gradients must have the shapes of x and weight");
  const at::Tensor dy = dense_rows(dy_ND), x = dense_rows(x_ND), w = w_D.contiguous();
  at::Tensor dx_ND = at::empty(x.sizes(), x.options());
  if (x.is_cuda()) return cuda::rms_norm_backward(dy, {x, w, rstd_N}, dx_ND, dw_D), dx_ND;
  for_dtype(x.scalar_type(), [&]<typename T>() {
    backward_rows<T>(dy, x, w.const_data_ptr<T>(), rstd_N.const_data_ptr<Acc<T>>(),
                     dx_ND.data_ptr<T>(), dw_D.data_ptr<Acc<T>>());
  });
  return dx_ND;
}

}  // namespace olmoe::kernels
