// Shapes: N rows, D width.
#include "kernels/row_sums.cuh"
#include "kernels/cuda_kernels.h"

namespace olmoe::kernels::cuda {
namespace {

template <typename T>
struct Forward {
  const T* x;
  int64_t x_stride, D;
  const T* w;
  Acc<T> eps;
  T* y;
  Acc<T>* rstd;
};

/// Block n has row n.
template <typename T, int kWidth, bool kHeld>
__global__ void __launch_bounds__(kMaxRowThreads) normalize_row(Forward<T> in) {
  const int64_t n = blockIdx.x, items = in.D / kWidth;
  const int64_t own_column = int64_t{threadIdx.x} * kWidth;
  const bool inside = own_column < in.D;
  const RowPart<T, kWidth, kHeld> x(in.x + n * in.x_stride, own_column, inside), w(in.w, own_column, inside);
  Acc<T> square_sum = 0;
  for_items<kHeld>(items, [&](int64_t item) {
    const auto xs = x.at(item * kWidth);
    for (int i = 0; i < kWidth; ++i) square_sum += load(xs.values[i]) * load(xs.values[i]);
  });
  const Acc<T> rstd = inverse_rms(block_sum(square_sum), in.D, in.eps);
  if (threadIdx.x == 0) in.rstd[n] = rstd;
  for_items<kHeld>(items, [&](int64_t item) {
    const auto xs = x.at(item * kWidth), ws = w.at(item * kWidth);
    Vector<T, kWidth> ys;
    for (int i = 0; i < kWidth; ++i) ys.values[i] = rms_normed(xs.values[i], rstd, ws.values[i]);
    store_vector<kWidth>(in.y + n * in.D + item * kWidth, ys);
  });
}

template <typename T>
struct Backward {
  const T *dy, *x;
  int64_t dy_stride, x_stride, D;
  const T* w;
  const Acc<T>* rstd;
  T* dx;
  Acc<T>* dw_chunks;
};

/// Block c has the rows of chunk c.
template <typename T, int kWidth, bool kHeld>
__global__ void __launch_bounds__(kMaxRowThreads) backward_chunk(Backward<T> in, RowChunks chunks) {
  const int64_t chunk = blockIdx.x, items = in.D / kWidth;
  const int64_t own_column = int64_t{threadIdx.x} * kWidth;
  const bool inside = own_column < in.D;
  const Range rows = chunks[chunk];
  const RowPart<T, kWidth, kHeld> w(in.w, own_column, inside);
  ColumnSums<Acc<T>, kWidth, kHeld> dw(in.dw_chunks + chunk * in.D);
  for_items<kHeld>(items, [&](int64_t item) { dw.start(item * kWidth); });
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const RowPart<T, kWidth, kHeld> x(in.x + n * in.x_stride, own_column, inside),
        dy(in.dy + n * in.dy_stride, own_column, inside);
    const Acc<T> rstd = in.rstd[n];
    Acc<T> dot = 0;
    for_items<kHeld>(items, [&](int64_t item) {
      const auto xs = x.at(item * kWidth), dys = dy.at(item * kWidth), ws = w.at(item * kWidth);
      for (int i = 0; i < kWidth; ++i) dot += load(dys.values[i]) * load(ws.values[i]) * load(xs.values[i]);
    });
    const Acc<T> projection = rms_projection(block_sum(dot), rstd, in.D);
    for_items<kHeld>(items, [&](int64_t item) {
      const auto xs = x.at(item * kWidth), dys = dy.at(item * kWidth), ws = w.at(item * kWidth);
      Vector<T, kWidth> dxs;
      Vector<Acc<T>, kWidth> dws;
      for (int i = 0; i < kWidth; ++i) {
        const auto grads = rms_norm_grads(load(dys.values[i]), xs.values[i], ws.values[i], rstd, projection);
        dxs.values[i] = rounded<T>(grads.dx);
        dws.values[i] = grads.dw;
      }
      store_vector<kWidth>(in.dx + n * in.D + item * kWidth, dxs);
      dw.add(item * kWidth, dws);
    });
  }
  for_items<kHeld>(items, [&](int64_t item) { dw.finish(item * kWidth); });
}

}  // namespace

void rms_norm(const at::Tensor& x_ND, const at::Tensor& w_D, double eps, RmsNorm& out) {
  const int64_t N = x_ND.size(0), D = x_ND.size(1);
  if (N == 0) return;
  for_dtype(x_ND.scalar_type(), [&]<typename T>() {
    const Forward<T> in{x_ND.const_data_ptr<T>(), x_ND.stride(0), D, w_D.const_data_ptr<T>(), static_cast<Acc<T>>(eps),
                        out.y_ND.data_ptr<T>(), out.rstd_N.data_ptr<Acc<T>>()};
    const bool vectors = rows_are_vectors(in.x, D, in.x_stride) && rows_are_vectors(in.w, D, D);
    for_row_kernel<T>(D, vectors, [&]<int kWidth, bool kHeld>(int threads) {
      normalize_row<T, kWidth, kHeld><<<blocks_for_rows(N), threads, 0, Launch(x_ND)>>>(in);
    });
  });
}

void rms_norm_backward(const at::Tensor& dy_ND, const RmsNormForward& forward, at::Tensor& dx_ND, at::Tensor& dw_D) {
  const auto& [x_ND, w_D, rstd_N] = forward;
  const RowChunks chunks{x_ND.size(0)};
  if (chunks.rows == 0) return;
  for_dtype(x_ND.scalar_type(), [&]<typename T>() {
    const at::Tensor dw_chunks = empty_chunk_sums(chunks, dw_D);
    const Backward<T> in{dy_ND.const_data_ptr<T>(), forward.x_ND.const_data_ptr<T>(), dy_ND.stride(0),
                         forward.x_ND.stride(0),    dw_D.numel(),                     forward.w_D.const_data_ptr<T>(),
                         forward.rstd_N.const_data_ptr<Acc<T>>(), dx_ND.data_ptr<T>(), dw_chunks.data_ptr<Acc<T>>()};
    const bool vectors = rows_are_vectors(in.x, in.D, in.x_stride) && rows_are_vectors(in.dy, in.D, in.dy_stride) &&
                         rows_are_vectors(in.w, in.D, in.D);
    for_row_kernel<T>(in.D, vectors, [&]<int kWidth, bool kHeld>(int threads) {
      backward_chunk<T, kWidth, kHeld><<<blocks_for_rows(chunks.chunks()), threads, 0, Launch(dy_ND)>>>(in, chunks);
    });
    add_chunk_sums<Acc<T>>(dw_chunks, dw_D);
  });
}

}  // namespace olmoe::kernels::cuda
