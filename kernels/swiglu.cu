// Shapes: R rows, F hidden width; a row of z is gate [F] and up [F].
#include "kernels/cuda_kernels.h"
#include "kernels/rows/row_part.cuh"

namespace olmoe::kernels::cuda {
namespace {

template <typename T>
struct Operands {
  const T* z;
  int64_t z_stride, F;
  const Acc<T>* score;  ///< null: 1

  Operands(const at::Tensor& z_R2F, const at::Tensor& score_R)
      : z(z_R2F.const_data_ptr<T>()),
        z_stride(z_R2F.stride(0)),
        F(z_R2F.size(1) / 2),
        score(score_R.defined() ? score_R.const_data_ptr<Acc<T>>() : nullptr) {}
  __device__ Acc<T> score_of(int64_t r) const { return score ? score[r] : 1; }
};

/// Block r has row r.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxRowThreads) forward_row(Operands<T> in, T* h_RF) {
  const int64_t r = blockIdx.x;
  const T *const gate = in.z + r * in.z_stride, *const up = gate + in.F;
  const Acc<T> score = in.score_of(r);
  for_items<false>(in.F / kWidth, [&](int64_t item) {
    const int64_t column = item * kWidth;
    const auto gates = load_vector<kWidth>(gate + column), ups = load_vector<kWidth>(up + column);
    Vector<T, kWidth> hs;
    for (int i = 0; i < kWidth; ++i) hs.values[i] = swiglu_element(gates.values[i], ups.values[i], score);
    store_vector<kWidth>(h_RF + r * in.F + column, hs);
  });
}

template <typename T>
struct Gradients {
  const T* dh;
  int64_t dh_stride;
  T *dz, *h;
  Acc<T>* dscore;
};

/// Block r has row r.
template <typename T, int kWidth>
__global__ void __launch_bounds__(kMaxRowThreads) backward_row(Operands<T> in, Gradients<T> out) {
  const int64_t r = blockIdx.x;
  const T *const gate = in.z + r * in.z_stride, *const up = gate + in.F, *const dh = out.dh + r * out.dh_stride;
  T *const dgate = out.dz + r * 2 * in.F, *const dup = dgate + in.F, *const h = out.h + r * in.F;
  const Acc<T> score = in.score_of(r);
  Acc<T> dscore = 0;
  for_items<false>(in.F / kWidth, [&](int64_t item) {
    const int64_t column = item * kWidth;
    const auto dhs = load_vector<kWidth>(dh + column), gates = load_vector<kWidth>(gate + column),
               ups = load_vector<kWidth>(up + column);
    Vector<T, kWidth> dgates, dups, hs;
    for (int i = 0; i < kWidth; ++i) {
      const auto element = swiglu_element_grads(load(dhs.values[i]), gates.values[i], ups.values[i], score);
      dgates.values[i] = rounded<T>(element.dgate);
      dups.values[i] = rounded<T>(element.dup);
      hs.values[i] = rounded<T>(element.h);
      dscore += element.dscore;
    }
    store_vector<kWidth>(dgate + column, dgates);
    store_vector<kWidth>(dup + column, dups);
    store_vector<kWidth>(h + column, hs);
  });
  if (!in.score) return;
  dscore = block_sum(dscore);
  if (threadIdx.x == 0) out.dscore[r] = dscore;
}

}  // namespace

void swiglu(const at::Tensor& z_R2F, const at::Tensor& score_R, at::Tensor& h_RF) {
  const int64_t R = h_RF.size(0), F = h_RF.size(1);
  if (R == 0) return;
  for_dtype(z_R2F.scalar_type(), [&]<typename T>() {
    const Operands<T> in(z_R2F, score_R);
    T* const h = h_RF.data_ptr<T>();
    for_width<T>(rows_are_vectors(in.z, F, in.z_stride), [&]<int kWidth>() {
      forward_row<T, kWidth><<<blocks_for_rows(R), threads_for_row(F / kWidth), 0, Launch(z_R2F)>>>(in, h);
    });
  });
}

void swiglu_backward(const at::Tensor& dh_RF, const at::Tensor& z_R2F, const at::Tensor& score_R, SwigluGrads& grads) {
  const int64_t R = dh_RF.size(0), F = dh_RF.size(1);
  if (R == 0) return;
  for_dtype(z_R2F.scalar_type(), [&]<typename T>() {
    const Operands<T> in(z_R2F, score_R);
    const Gradients<T> out{dh_RF.const_data_ptr<T>(), dh_RF.stride(0), grads.dz_R2F.data_ptr<T>(),
                           grads.h_RF.data_ptr<T>(), in.score ? grads.dscore_R.data_ptr<Acc<T>>() : nullptr};
    const bool vectors = rows_are_vectors(in.z, F, in.z_stride) && rows_are_vectors(out.dh, F, out.dh_stride);
    for_width<T>(vectors, [&]<int kWidth>() {
      backward_row<T, kWidth><<<blocks_for_rows(R), threads_for_row(F / kWidth), 0, Launch(z_R2F)>>>(in, out);
    });
  });
}

}  // namespace olmoe::kernels::cuda
