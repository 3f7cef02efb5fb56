#include "kernels/rotary.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// Operands of forward and backward. `w` is null without a norm; `clip` is infinite without a clamp.
template <typename T>
struct Operands {
  const T* x;
  int64_t x_stride, W;
  const T* w;
  const Acc<T>* table;
  int64_t S, d;
  Acc<T> clip;

  /// Element j after the norm, before the clamp, rounded as OlmoeForCausalLM rounds.
  [[gnu::always_inline]] Acc<T> normed(const T* row, int64_t j, Acc<T> rstd) const {
    if (!w) return load(row[j]);
    return load(rms_normed(row[j], rstd, w[j]));
  }
};

template <typename T>
Operands<T> operands(const NormRotaryOperands& in) {
  const auto& [x_NW, w_W, table_Sd, clip] = in;
  return {x_NW.const_data_ptr<T>(),
          x_NW.stride(0),
          x_NW.size(1),
          w_W.defined() ? w_W.const_data_ptr<T>() : nullptr,
          table_Sd.const_data_ptr<Acc<T>>(),
          table_Sd.size(0),
          table_Sd.size(1),
          static_cast<Acc<T>>(clip.value_or(std::numeric_limits<double>::infinity()))};
}

template <typename T>
void rotate_row(const Operands<T>& in, int64_t n, Acc<T> rstd, T* y) {
  const T* const x = in.x + n * in.x_stride;
  const int64_t half = in.d / 2;
  const Acc<T>*const cos = in.table + (n % in.S) * in.d, *const sin = cos + half;
  for (int64_t head = 0; head < in.W; head += in.d) {
#pragma omp simd
    for (int64_t j = 0; j < half; ++j) {
      const int64_t first = head + j, second = first + half;
      const Acc<T> a = clamped(in.normed(x, first, rstd), in.clip);
      const Acc<T> b = clamped(in.normed(x, second, rstd), in.clip);
      const auto turned = rotate(a, b, cos[j], sin[j]);
      y[first] = rounded<T>(turned.first);
      y[second] = rounded<T>(turned.second);
    }
  }
}

template <typename T>
void forward_rows(const Operands<T>& in, double eps, int64_t N, T* y_NW, Acc<T>* rstd_N) {
  for_rows(N, in.W, [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      Acc<T> rstd = 1;
      if (in.w) {
        const T* const x = in.x + n * in.x_stride;
        Acc<T> square_sum = 0;
#pragma omp simd reduction(+ : square_sum)
        for (int64_t j = 0; j < in.W; ++j) square_sum += load(x[j]) * load(x[j]);
        rstd = inverse_rms(square_sum, in.W, static_cast<Acc<T>>(eps));
        rstd_N[n] = rstd;
      }
      rotate_row(in, n, rstd, y_NW + n * in.W);
    }
  });
}

/// Gradient before the clamp: dy rotated back, zero where the value was clamped.
template <typename T>
void rotate_back(const Operands<T>& in, int64_t n, Acc<T> rstd, const T* dy, Acc<T>* dv) {
  const T* const x = in.x + n * in.x_stride;
  const int64_t half = in.d / 2;
  const Acc<T>*const cos = in.table + (n % in.S) * in.d, *const sin = cos + half;
  for (int64_t head = 0; head < in.W; head += in.d) {
#pragma omp simd
    for (int64_t j = 0; j < half; ++j) {
      const int64_t first = head + j, second = first + half;
      const auto back = rotate(load(dy[first]), load(dy[second]), cos[j], -sin[j]);
      dv[first] = clamp_grad(back.first, in.normed(x, first, rstd), in.clip);
      dv[second] = clamp_grad(back.second, in.normed(x, second, rstd), in.clip);
    }
  }
}

template <typename T>
void norm_backward_row(const Operands<T>& in, int64_t n, Acc<T> rstd, const Acc<T>* dv, T* dx, Acc<T>* dw_partial) {
  const T *const x = in.x + n * in.x_stride, *const w = in.w;
  Acc<T> dot = 0;
#pragma omp simd reduction(+ : dot)
  for (int64_t j = 0; j < in.W; ++j) dot += dv[j] * load(w[j]) * load(x[j]);
  const Acc<T> projection = rms_projection(dot, rstd, in.W);
#pragma omp simd
  for (int64_t j = 0; j < in.W; ++j) {
    const auto grads = rms_norm_grads(dv[j], x[j], w[j], rstd, projection);
    dw_partial[j] += grads.dw;
    dx[j] = rounded<T>(grads.dx);
  }
}

template <typename T>
void backward_rows(const Operands<T>& in, const at::Tensor& dy_NW, const Acc<T>* rstd_N, at::Tensor& dx_NW,
                   at::Tensor& dw_W) {
  const T* const dy_all = dy_NW.const_data_ptr<T>();
  T* const dx_all = dx_NW.data_ptr<T>();
  const int64_t N = dy_NW.size(0), dy_stride = dy_NW.stride(0), dx_stride = dx_NW.stride(0);
  if (!in.w) {
    for_rows(N, in.W, [=](int64_t begin, int64_t end) {
      std::vector<Acc<T>> dv(in.W);
      for (int64_t n = begin; n < end; ++n) {
        rotate_back(in, n, Acc<T>{1}, dy_all + n * dy_stride, dv.data());
        for (int64_t j = 0; j < in.W; ++j) dx_all[n * dx_stride + j] = rounded<T>(dv[j]);
      }
    });
    return;
  }
  sum_over_rows(N, in.W, dw_W.data_ptr<Acc<T>>(), [=](int64_t begin, int64_t end, Acc<T>* partial) {
    std::vector<Acc<T>> dv(in.W);
    for (int64_t n = begin; n < end; ++n) {
      rotate_back(in, n, rstd_N[n], dy_all + n * dy_stride, dv.data());
      norm_backward_row(in, n, rstd_N[n], dv.data(), dx_all + n * dx_stride, partial);
    }
  });
}

/// Throws Error unless the operands match; returns them with dense rows.
NormRotaryOperands checked(const NormRotaryOperands& in) {
  const auto& [x_NW, w_W, table_Sd, clip] = in;
  ensure_dim(x_NW, 2, "norm_rotary: x");
  ensure_dim(table_Sd, 2, "norm_rotary: table");
  ensure_same_device(table_Sd, x_NW, "norm_rotary: table");
  const int64_t d = table_Sd.size(1);
  ENSURE(d > 0 && d % 2 == 0 && x_NW.size(1) % d == 0 && table_Sd.size(0) > 0,
         "norm_rotary: rows of {} are not divisible into heads of even width {}", x_NW.size(1), d);
  ENSURE(table_Sd.is_contiguous() && table_Sd.scalar_type() == acc_dtype(x_NW.scalar_type()),
         "norm_rotary: the table must be contiguous, {}", c10::toString(acc_dtype(x_NW.scalar_type())));
  ENSURE(!clip || *clip > 0, "norm_rotary: clip must be positive, not {}", *clip);
  if (w_W.defined()) {
    ensure_dim(w_W, 1, "norm_rotary: weight");
    ensure_same_device(w_W, x_NW, "norm_rotary: weight");
    ENSURE(w_W.size(0) == x_NW.size(1) && w_W.scalar_type() == x_NW.scalar_type() && w_W.is_contiguous(),
           "norm_rotary: the weight must be contiguous, {} x {}", x_NW.size(1), c10::toString(x_NW.scalar_type()));
  }
  return {dense_rows(x_NW), w_W, table_Sd, clip};
}

}  // namespace

at::Tensor rotary_table(int64_t sequence_length, int64_t head_dim, double theta, at::ScalarType dtype) {
  ENSURE(head_dim > 0 && head_dim % 2 == 0, "rotary: head width {} must be positive and even", head_dim);
  const auto table_dtype = acc_dtype(dtype);
  at::Tensor table_Sd = at::empty({sequence_length, head_dim}, at::TensorOptions().dtype(table_dtype));
  const int64_t half = head_dim / 2;
  for_dtype(table_dtype, [&]<typename T>() {
    T* row = table_Sd.data_ptr<T>();
    for (int64_t s = 0; s < sequence_length; ++s, row += head_dim) {
      for (int64_t j = 0; j < half; ++j) {
        // Each operation in T, as in the reference: in fp32 the rounding of the angle is part of the model.
        const T frequency = 1 / std::pow(static_cast<T>(theta), static_cast<T>(2 * j) / static_cast<T>(head_dim));
        const T angle = static_cast<T>(s) * frequency;
        row[j] = rounded<T>(std::cos(angle));
        row[half + j] = rounded<T>(std::sin(angle));
      }
    }
  });
  return table_Sd;
}

NormRotary norm_rotary(const NormRotaryOperands& in, double eps) {
  const auto dense = checked(in);
  const at::Tensor& x = dense.x_NW;
  NormRotary out{at::empty(x.sizes(), x.options()), {}};
  if (in.w_W.defined()) out.rstd_N = at::empty({x.size(0)}, x.options().dtype(acc_dtype(x.scalar_type())));
  if (x.is_cuda()) return cuda::norm_rotary(dense, eps, out), out;
  for_dtype(x.scalar_type(), [&]<typename T>() {
    Acc<T>* const rstd = in.w_W.defined() ? out.rstd_N.data_ptr<Acc<T>>() : nullptr;
    forward_rows(operands<T>(dense), eps, x.size(0), out.y_NW.data_ptr<T>(), rstd);
  });
  return out;
}

void norm_rotary_backward(const at::Tensor& dy_NW, const NormRotaryOperands& in, const at::Tensor& rstd_N,
                          at::Tensor dx_NW, at::Tensor dw_W) {
  const auto dense = checked(in);
  if (in.w_W.defined()) ensure_weight_grad(dw_W, in.x_NW.scalar_type());
  ENSURE(dy_NW.sizes() == in.x_NW.sizes() && dx_NW.sizes() == in.x_NW.sizes(),
         "norm_rotary_backward: dy and dx must have the shape of x");
  ENSURE(dx_NW.size(1) <= 1 || dx_NW.stride(1) == 1, "norm_rotary_backward: rows of dx must be dense");
  const at::Tensor dy = dense_rows(dy_NW);
  if (dy.is_cuda()) return cuda::norm_rotary_backward(dy, dense, rstd_N, dx_NW, dw_W);
  for_dtype(dy.scalar_type(), [&]<typename T>() {
    const Acc<T>* const rstd = in.w_W.defined() ? rstd_N.const_data_ptr<Acc<T>>() : nullptr;
    backward_rows(operands<T>(dense), dy, rstd, dx_NW, dw_W);
  });
}

}  // namespace olmoe::kernels
