// Shapes: N rows, D width.
#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_sums.cuh"

namespace olmoe::kernels::cuda {
namespace {

template <typename T>
struct Forward {
  const T* x;
  int64_t x_stride, D;
  const T* residual;  ///< null: none
  int64_t residual_stride;
  T* sum;  ///< x, if a residual is added to it, else null
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
  if (in.residual != nullptr)  // no barrier: each thread later reads only the sums that it wrote
    for_items<kHeld>(items, [&](int64_t item) {
      const auto addends = load_vector<kWidth>(in.residual + n * in.residual_stride + item * kWidth);
      auto* const to = in.sum + n * in.x_stride + item * kWidth;
      auto sums = load_vector<kWidth>(to);
      for (int i = 0; i < kWidth; ++i) sums.values[i] = rounded<T>(load(sums.values[i]) + load(addends.values[i]));
      store_vector<kWidth>(to, sums);
    });
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
  const T *dy, *x, *dx_residual;  ///< [N, D]; dx_residual null: no residual branch
  int64_t dy_stride, x_stride, dx_residual_stride, D;
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
    const bool added = in.dx_residual != nullptr;
    const RowPart<T, kWidth, kHeld> x(in.x + n * in.x_stride, own_column, inside),
        dy(in.dy + n * in.dy_stride, own_column, inside),
        dx_residual(in.dx_residual + n * in.dx_residual_stride, own_column, inside && added);
    const Acc<T> rstd = in.rstd[n];
    Acc<T> dot = 0;
    for_items<kHeld>(items, [&](int64_t item) {
      const auto xs = x.at(item * kWidth), dys = dy.at(item * kWidth), ws = w.at(item * kWidth);
      for (int i = 0; i < kWidth; ++i) dot += load(dys.values[i]) * load(ws.values[i]) * load(xs.values[i]);
    });
    const Acc<T> projection = rms_projection(block_sum(dot), rstd, in.D);
    for_items<kHeld>(items, [&](int64_t item) {
      const auto xs = x.at(item * kWidth), dys = dy.at(item * kWidth), ws = w.at(item * kWidth);
      Vector<T, kWidth> dxs, others;
      Vector<Acc<T>, kWidth> dws;
      if (added) others = dx_residual.at(item * kWidth);
      for (int i = 0; i < kWidth; ++i) {
        const auto grads = rms_norm_grads(load(dys.values[i]), xs.values[i], ws.values[i], rstd, projection);
        dxs.values[i] = rounded<T>(added ? grads.dx + load(others.values[i]) : grads.dx);
        dws.values[i] = grads.dw;
      }
      store_vector<kWidth>(in.dx + n * in.D + item * kWidth, dxs);
      dw.add(item * kWidth, dws);
    });
  }
  for_items<kHeld>(items, [&](int64_t item) { dw.finish(item * kWidth); });
}

}  // namespace

void rms_norm(const at::Tensor& x_ND, const at::Tensor& residual_ND, const at::Tensor& w_D, double eps, RmsNorm& out) {
  const int64_t N = x_ND.size(0), D = x_ND.size(1);
  if (N == 0) return;
  for_dtype(x_ND.scalar_type(), [&]<typename T>() {
    const Rows<T> residual(residual_ND);
    const Forward<T> in{.x = x_ND.const_data_ptr<T>(),
                        .x_stride = x_ND.stride(0),
                        .D = D,
                        .residual = residual.all,
                        .residual_stride = residual.stride,
                        .sum = residual.all != nullptr ? x_ND.mutable_data_ptr<T>() : nullptr,
                        .w = w_D.const_data_ptr<T>(),
                        .eps = static_cast<Acc<T>>(eps),
                        .y = out.y_ND.data_ptr<T>(),
                        .rstd = out.rstd_N.data_ptr<Acc<T>>()};
    const bool vectors = rows_are_vectors(in.x, D, in.x_stride) && rows_are_vectors(in.w, D, D) &&
                         rows_are_vectors(in.residual, D, in.residual_stride);
    for_row_kernel<T>(D, vectors, [&]<int kWidth, bool kHeld>(int threads) {
      normalize_row<T, kWidth, kHeld><<<blocks_for_rows(N), threads, 0, Launch(x_ND)>>>(in);
    });
  });
}

void rms_norm_backward(const at::Tensor& dy_ND, const at::Tensor& dx_residual_ND, const RmsNormForward& forward,
                       at::Tensor& dx_ND, at::Tensor& dw_D) {
  const RowChunks chunks{dy_ND.size(0)};
  if (chunks.rows == 0) return;
  for_dtype(dy_ND.scalar_type(), [&]<typename T>() {
    const at::Tensor dw_chunks = empty_chunk_sums(chunks, dw_D);
    const Rows<T> dy(dy_ND), x(forward.x_ND), dx_residual(dx_residual_ND);
    const Backward<T> in{.dy = dy.all,
                         .x = x.all,
                         .dx_residual = dx_residual.all,
                         .dy_stride = dy.stride,
                         .x_stride = x.stride,
                         .dx_residual_stride = dx_residual.stride,
                         .D = dw_D.numel(),
                         .w = forward.w_D.const_data_ptr<T>(),
                         .rstd = forward.rstd_N.const_data_ptr<Acc<T>>(),
                         .dx = dx_ND.data_ptr<T>(),
                         .dw_chunks = dw_chunks.data_ptr<Acc<T>>()};
    const bool vectors = rows_are_vectors(in.x, in.D, in.x_stride) && rows_are_vectors(in.dy, in.D, in.dy_stride) &&
                         rows_are_vectors(in.dx_residual, in.D, in.dx_residual_stride) &&
                         rows_are_vectors(in.w, in.D, in.D);
    for_row_kernel<T>(in.D, vectors, [&]<int kWidth, bool kHeld>(int threads) {
      backward_chunk<T, kWidth, kHeld><<<blocks_for_rows(chunks.chunks()), threads, 0, Launch(dy_ND)>>>(in, chunks);
    });
    add_chunk_sums<Acc<T>>(dw_chunks, dw_D);
  });
}

}  // namespace olmoe::kernels::cuda
