#include "kernels/swiglu.h"

#include <ATen/ops/empty.h>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

template <typename T>
void forward_rows(const at::Tensor& z_R2F, const Acc<T>* score_R, at::Tensor& h_RF) {
  const T* const z_all = z_R2F.const_data_ptr<T>();
  T* const h_all = h_RF.data_ptr<T>();
  const int64_t F = h_RF.size(1), z_stride = z_R2F.stride(0);
  for_rows(h_RF.size(0), F, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *const gate = z_all + r * z_stride, *const up = gate + F;
      T* const h = h_all + r * F;
      const Acc<T> score = score_R ? score_R[r] : 1;
#pragma omp simd
      for (int64_t j = 0; j < F; ++j) h[j] = swiglu_element(gate[j], up[j], score);
    }
  });
}

template <typename T>
void backward_rows(const at::Tensor& dh_RF, const at::Tensor& z_R2F, const Acc<T>* score_R, SwigluGrads& grads) {
  const T *const z_all = z_R2F.const_data_ptr<T>(), *const dh_all = dh_RF.const_data_ptr<T>();
  T *const dz_all = grads.dz_R2F.data_ptr<T>(), *const h_all = grads.h_RF.data_ptr<T>();
  Acc<T>* const dscore_R = score_R ? grads.dscore_R.data_ptr<Acc<T>>() : nullptr;
  const int64_t F = dh_RF.size(1), z_stride = z_R2F.stride(0), dh_stride = dh_RF.stride(0);
  for_rows(dh_RF.size(0), 2 * F, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const T *const gate = z_all + r * z_stride, *const up = gate + F;
      const T* const dh = dh_all + r * dh_stride;
      T *const dgate = dz_all + r * 2 * F, *const dup = dgate + F, *const h = h_all + r * F;
      const Acc<T> score = score_R ? score_R[r] : 1;
      Acc<T> dscore = 0;
#pragma omp simd reduction(+ : dscore)
      for (int64_t j = 0; j < F; ++j) {
        const auto element = swiglu_element_grads(load(dh[j]), gate[j], up[j], score);
        h[j] = rounded<T>(element.h);
        dup[j] = rounded<T>(element.dup);
        dgate[j] = rounded<T>(element.dgate);
        dscore += element.dscore;
      }
      if (dscore_R) dscore_R[r] = dscore;
    }
  });
}

template <typename T>
const Acc<T>* score_or_null(const at::Tensor& score_R) {
  return score_R.defined() ? score_R.const_data_ptr<Acc<T>>() : nullptr;
}

void ensure_operands(const at::Tensor& z_R2F, const at::Tensor& score_R) {
  ensure_dim(z_R2F, 2, "swiglu: z");
  ENSURE(z_R2F.size(1) % 2 == 0, "swiglu: {} columns do not halve", z_R2F.size(1));
  if (!score_R.defined()) return;
  ensure_dim(score_R, 1, "swiglu: score");
  ensure_same_device(score_R, z_R2F, "swiglu: score");
  ENSURE(score_R.size(0) == z_R2F.size(0) && score_R.is_contiguous() &&
             score_R.scalar_type() == acc_dtype(z_R2F.scalar_type()),
         "swiglu: score must be contiguous, {}, one for each of {} rows", c10::toString(acc_dtype(z_R2F.scalar_type())),
         z_R2F.size(0));
}

}  // namespace

at::Tensor swiglu(const at::Tensor& z_R2F, const at::Tensor& score_R) {
  ensure_operands(z_R2F, score_R);
  const at::Tensor z = dense_rows(z_R2F);
  at::Tensor h_RF = at::empty({z.size(0), z.size(1) / 2}, z.options());
  if (z.is_cuda()) return cuda::swiglu(z, score_R, h_RF), h_RF;
  for_dtype(z.scalar_type(), [&]<typename T>() { forward_rows<T>(z, score_or_null<T>(score_R), h_RF); });
  return h_RF;
}

SwigluGrads swiglu_backward(const at::Tensor& dh_RF, const at::Tensor& z_R2F, const at::Tensor& score_R) {
  ensure_operands(z_R2F, score_R);
  ENSURE(dh_RF.dim() == 2 && dh_RF.size(0) == z_R2F.size(0) && 2 * dh_RF.size(1) == z_R2F.size(1) &&
             dh_RF.scalar_type() == z_R2F.scalar_type(),
         "swiglu_backward: dh must have half of z's columns, and its rows and dtype");
  const at::Tensor z = dense_rows(z_R2F), dh = dense_rows(dh_RF);
  SwigluGrads grads{at::empty(z.sizes(), z.options()), at::empty(dh.sizes(), z.options()), {}};
  if (score_R.defined()) grads.dscore_R = at::empty(score_R.sizes(), score_R.options());
  if (z.is_cuda()) return cuda::swiglu_backward(dh, z, score_R, grads), grads;
  for_dtype(z.scalar_type(), [&]<typename T>() { backward_rows<T>(dh, z, score_or_null<T>(score_R), grads); });
  return grads;
}

}  // namespace olmoe::kernels
