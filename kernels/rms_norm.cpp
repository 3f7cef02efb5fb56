#include "kernels/rms_norm.h"

#include <ATen/ops/empty.h>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// row_of(n): pointer to row n, which add_rms_norm() computes at this call.
template <typename T, typename RowOf>
void normalize_rows(const RowOf& row_of, const T* w, double eps, RmsNorm& out) {
  const int64_t D = out.y_ND.size(1);
  T* const y_all = out.y_ND.data_ptr<T>();
  auto* const rstd_N = out.rstd_N.data_ptr<Acc<T>>();
  for_rows(out.y_ND.size(0), D, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* const x = row_of(n);
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
void backward_rows(Rows<T> dy_rows, Rows<T> x_rows, Rows<T> dx_residual, const RmsNormForward& forward,
                   at::Tensor& dx_ND, Acc<T>* dw) {
  const T* const w = forward.w_D.const_data_ptr<T>();
  const auto* const rstd_N = forward.rstd_N.const_data_ptr<Acc<T>>();
  T* const dx_all = dx_ND.data_ptr<T>();
  const int64_t D = dx_ND.size(1);
  sum_over_rows(dx_ND.size(0), D, dw, [=](int64_t begin, int64_t end, Acc<T>* dw_partial) {
    for (int64_t n = begin; n < end; ++n) {
      const T *const x = x_rows[n], *const dy = dy_rows[n];
      T* const dx = dx_all + n * D;
      const Acc<T> rstd = rstd_N[n];
      Acc<T> dot = 0;
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < D; ++j) dot += load(dy[j]) * load(w[j]) * load(x[j]);
      const Acc<T> projection = rms_projection(dot, rstd, D);
      const auto finish = [=](const auto& residual_grad) {
#pragma omp simd
        for (int64_t j = 0; j < D; ++j) {
          const auto grads = rms_norm_grads(load(dy[j]), x[j], w[j], rstd, projection);
          dw_partial[j] += grads.dw;
          dx[j] = rounded<T>(grads.dx + residual_grad(j));
        }
      };
      if (const T* const other = dx_residual[n]; dx_residual.all != nullptr)
        finish([=](int64_t j) { return load(other[j]); });
      else
        finish([](int64_t) { return Acc<T>{0}; });
    }
  });
}

void ensure_operands(const at::Tensor& x_ND, const at::Tensor& w_D) {
  ensure_dim(x_ND, 2, "rms_norm: x");
  ensure_dim(w_D, 1, "rms_norm: weight");
  ensure_same_device(w_D, x_ND, "rms_norm: weight");
  ENSURE(w_D.size(0) == x_ND.size(1) && w_D.scalar_type() == x_ND.scalar_type(),
         "rms_norm: a weight of {} {} does not match rows of {} {}", w_D.size(0), c10::toString(w_D.scalar_type()),
         x_ND.size(1), c10::toString(x_ND.scalar_type()));
}

RmsNorm empty_norm(const at::Tensor& x_ND) {
  return {at::empty(x_ND.sizes(), x_ND.options()),
          at::empty({x_ND.size(0)}, x_ND.options().dtype(acc_dtype(x_ND.scalar_type())))};
}

}  // namespace

RmsNorm rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps) {
  ensure_operands(x_ND, w_D);
  const at::Tensor x = dense_rows(x_ND), w = w_D.contiguous();
  auto out = empty_norm(x);
  if (x.is_cuda()) return cuda::rms_norm(x, {}, w, eps, out), out;
  for_dtype(x.scalar_type(), [&]<typename T>() {
    const Rows<T> rows(x);
    normalize_rows<T>([=](int64_t n) { return rows[n]; }, w.const_data_ptr<T>(), eps, out);
  });
  return out;
}

RmsNorm add_rms_norm(at::Tensor x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps) {
  ensure_operands(x_ND, w_D);
  ensure_same_device(residual_ND, x_ND, "add_rms_norm: residual");
  ENSURE(x_ND.is_contiguous() && residual_ND.sizes() == x_ND.sizes() && residual_ND.scalar_type() == x_ND.scalar_type(),
         "add_rms_norm: a residual of {} {} does not match x, {} {}, or x is not contiguous", residual_ND.numel(),
         c10::toString(residual_ND.scalar_type()), x_ND.numel(), c10::toString(x_ND.scalar_type()));
  const at::Tensor residual = dense_rows(residual_ND), w = w_D.contiguous();
  auto out = empty_norm(x_ND);
  if (x_ND.is_cuda()) return cuda::rms_norm(x_ND, residual, w, eps, out), out;
  for_dtype(x_ND.scalar_type(), [&]<typename T>() {
    const Rows<T> residuals(residual);
    const int64_t D = x_ND.size(1);
    T* const x_all = x_ND.data_ptr<T>();
    const auto add_row = [=](int64_t n) {
      T* const x = x_all + n * D;
      const T* const addend = residuals[n];
#pragma omp simd
      for (int64_t j = 0; j < D; ++j) x[j] = rounded<T>(load(x[j]) + load(addend[j]));
      return x;
    };
    normalize_rows<T>(add_row, w.const_data_ptr<T>(), eps, out);
  });
  return out;
}

at::Tensor rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& x_ND, const at::Tensor& w_D,
                             const at::Tensor& rstd_N, at::Tensor dw_D, const at::Tensor& dx_residual_ND) {
  ensure_operands(x_ND, w_D);
  ensure_weight_grad(dw_D, x_ND.scalar_type());
  const bool has_residual = dx_residual_ND.defined();
  ENSURE(dy_ND.sizes() == x_ND.sizes() && dw_D.sizes() == w_D.sizes() &&
             (!has_residual || dx_residual_ND.sizes() == x_ND.sizes()),
         "rms_norm_backward: gradients must have the shapes of x and weight");
  const at::Tensor dy = dense_rows(dy_ND), residual = has_residual ? dense_rows(dx_residual_ND) : dx_residual_ND;
  const RmsNormForward forward{dense_rows(x_ND), w_D.contiguous(), rstd_N};
  at::Tensor dx_ND = at::empty(x_ND.sizes(), x_ND.options());
  if (x_ND.is_cuda()) return cuda::rms_norm_backward(dy, residual, forward, dx_ND, dw_D), dx_ND;
  for_dtype(x_ND.scalar_type(), [&]<typename T>() {
    backward_rows<T>(Rows<T>(dy), Rows<T>(forward.x_ND), Rows<T>(residual), forward, dx_ND, dw_D.data_ptr<Acc<T>>());
  });
  return dx_ND;
}

}  // namespace olmoe::kernels
