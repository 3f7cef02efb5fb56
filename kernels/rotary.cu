// Shapes: N tokens, W = heads * d width. An item of a row is a run of pairs: columns of a head's first half with their
// partners in its second half.
#include <limits>

#include "kernels/cuda_kernels.h"
#include "kernels/rotary_index.h"
#include "kernels/rows/row_sums.cuh"

namespace olmoe::kernels::cuda {
namespace {

/// Operands of forward and backward. `w` is null without a norm; `clip` is infinite without a clamp.
template <typename T>
struct Operands {
  const T* x;
  int64_t x_stride, W, half;
  const T* w;
  const Acc<T>* table;
  int64_t S;
  Acc<T> clip;

  /// Cosines of token n, [half]; its sines follow.
  __device__ const Acc<T>* cosines(int64_t n) const {
    return table + int64_t{static_cast<uint32_t>(n) % static_cast<uint32_t>(S)} * 2 * half;
  }
  /// The value before clamp and rotation, rounded where OlmoeForCausalLM rounds.
  __device__ Acc<T> normed(T x_j, Acc<T> rstd, T w_j) const { return w ? load(rms_normed(x_j, rstd, w_j)) : load(x_j); }
  bool are_vectors() const {
    return rows_are_vectors(x, half, x_stride) && rows_are_vectors(table, half, half) &&
           (!w || rows_are_vectors(w, half, half));
  }
};

/// A thread's part of a row, in pairs of columns.
template <typename T, int kWidth, bool kHeld>
struct PairParts {
  RowPart<T, kWidth, kHeld> first, second;

  __device__ PairParts(const T* row, int64_t own_column, int64_t half, bool inside)
      : first(row, own_column, inside), second(row + half, own_column, inside) {}
};

/// Block n has row n.
template <typename T, int kWidth, bool kHeld>
__global__ void __launch_bounds__(kMaxRowThreads) rotate_row(Operands<T> in, Acc<T> eps, T* y_NW, Acc<T>* rstd_N) {
  const int64_t n = blockIdx.x, items = in.W / 2 / kWidth, half = in.half;
  const int64_t own_column = pair_column(threadIdx.x, half, kWidth);
  const bool inside = threadIdx.x < items;
  const PairParts<T, kWidth, kHeld> x(in.x + n * in.x_stride, own_column, half, inside),
      w(in.w, own_column, half, inside && in.w);
  Acc<T> rstd = 1;
  if (in.w) {
    Acc<T> square_sum = 0;
    for_items<kHeld>(items, [&](int64_t item) {
      const int64_t column = pair_column(item, half, kWidth);
      const auto as = x.first.at(column), bs = x.second.at(column);
      for (int i = 0; i < kWidth; ++i)
        square_sum += load(as.values[i]) * load(as.values[i]) + load(bs.values[i]) * load(bs.values[i]);
    });
    rstd = inverse_rms(block_sum(square_sum), in.W, eps);
    if (threadIdx.x == 0) rstd_N[n] = rstd;
  }
  for_items<kHeld>(items, [&](int64_t item) {
    const int64_t column = pair_column(item, half, kWidth);
    const Acc<T>* const cos = in.cosines(n) + angle_column(column, half);
    const auto cosines = load_vector<kWidth>(cos), sines = load_vector<kWidth>(cos + half);
    const auto as = x.first.at(column), bs = x.second.at(column);
    Vector<T, kWidth> w_as{}, w_bs{}, y_as, y_bs;
    if (in.w) w_as = w.first.at(column), w_bs = w.second.at(column);
    for (int i = 0; i < kWidth; ++i) {
      const Acc<T> a = clamped(in.normed(as.values[i], rstd, w_as.values[i]), in.clip);
      const Acc<T> b = clamped(in.normed(bs.values[i], rstd, w_bs.values[i]), in.clip);
      const auto turned = rotate(a, b, cosines.values[i], sines.values[i]);
      y_as.values[i] = rounded<T>(turned.first);
      y_bs.values[i] = rounded<T>(turned.second);
    }
    store_vector<kWidth>(y_NW + n * in.W + column, y_as);
    store_vector<kWidth>(y_NW + n * in.W + column + half, y_bs);
  });
}

template <typename T>
struct Gradients {
  const T* dy;  ///< may alias dx: a thread writes only what it alone reads
  int64_t dy_stride;
  const Acc<T>* rstd;
  T* dx;
  int64_t dx_stride;
  Acc<T>* dw_chunks;
};

/// A run of columns in the backward: x, w, and dv, the gradient before the clamp.
template <typename T, int kWidth>
struct Columns {
  Vector<T, kWidth> x, w;
  Vector<Acc<T>, kWidth> dv;

  __device__ Acc<T> dot() const {
    Acc<T> sum = 0;
    for (int i = 0; i < kWidth; ++i) sum += dv.values[i] * load(w.values[i]) * load(x.values[i]);
    return sum;
  }
  /// Returns dx of these columns; writes their contribution to the weight's gradient to `dw`.
  __device__ Vector<T, kWidth> grads(Acc<T> rstd, Acc<T> projection, Vector<Acc<T>, kWidth>& dw) const {
    Vector<T, kWidth> dx;
    for (int i = 0; i < kWidth; ++i) {
      const auto element = rms_norm_grads(dv.values[i], x.values[i], w.values[i], rstd, projection);
      dx.values[i] = rounded<T>(element.dx);
      dw.values[i] = element.dw;
    }
    return dx;
  }
  __device__ Vector<T, kWidth> rounded_dv() const {
    Vector<T, kWidth> out;
    for (int i = 0; i < kWidth; ++i) out.values[i] = rounded<T>(dv.values[i]);
    return out;
  }
};
template <typename T, int kWidth>
struct ColumnPairs {
  Columns<T, kWidth> first, second;
};

/// The operands of a row; at() rotates dy back, one run of pairs at a time.
template <typename T, int kWidth, bool kHeld>
struct BackwardRow {
  using Parts = PairParts<T, kWidth, kHeld>;
  const Operands<T>& in;
  const Parts& w;
  Parts x, dy;
  const Acc<T>* cosines;
  Acc<T> rstd;

  __device__ ColumnPairs<T, kWidth> at(int64_t column) const {
    ColumnPairs<T, kWidth> out{{x.first.at(column), {}, {}}, {x.second.at(column), {}, {}}};
    if (in.w) out.first.w = w.first.at(column), out.second.w = w.second.at(column);
    const Acc<T>* const cos = cosines + angle_column(column, in.half);
    const auto coss = load_vector<kWidth>(cos), sins = load_vector<kWidth>(cos + in.half);
    const auto as = dy.first.at(column), bs = dy.second.at(column);
    for (int i = 0; i < kWidth; ++i) {
      const auto back = rotate(load(as.values[i]), load(bs.values[i]), coss.values[i], -sins.values[i]);
      out.first.dv.values[i] = unclamped(back.first, out.first, i);
      out.second.dv.values[i] = unclamped(back.second, out.second, i);
    }
    return out;
  }

 private:
  __device__ Acc<T> unclamped(Acc<T> dv, const Columns<T, kWidth>& columns, int i) const {
    return clamp_grad(dv, in.normed(columns.x.values[i], rstd, columns.w.values[i]), in.clip);
  }
};

/// Block c has the rows of chunk c. Without a norm there are no sums.
template <typename T, int kWidth, bool kHeld>
__global__ void __launch_bounds__(kMaxRowThreads, 1)
    backward_chunk(Operands<T> in, Gradients<T> out, RowChunks chunks) {
  using Parts = PairParts<T, kWidth, kHeld>;
  const int64_t items = in.W / 2 / kWidth, half = in.half, sums_row = in.w ? blockIdx.x * in.W : 0;
  const int64_t own_column = pair_column(threadIdx.x, half, kWidth);
  const bool inside = threadIdx.x < items;
  const Parts w(in.w, own_column, half, inside && in.w);
  ColumnSums<Acc<T>, kWidth, kHeld> first_dw(out.dw_chunks + sums_row), second_dw(out.dw_chunks + sums_row + half);
  const auto for_columns = [&](const auto& f) {
    for_items<kHeld>(items, [&](int64_t item) { f(pair_column(item, half, kWidth)); });
  };
  if (in.w) for_columns([&](int64_t column) { first_dw.start(column), second_dw.start(column); });
  const Range rows = chunks[blockIdx.x];
  for (int64_t n = rows.begin; n < rows.end; ++n) {
    const BackwardRow<T, kWidth, kHeld> row{in,
                                            w,
                                            Parts(in.x + n * in.x_stride, own_column, half, inside),
                                            Parts(out.dy + n * out.dy_stride, own_column, half, inside),
                                            in.cosines(n),
                                            in.w ? out.rstd[n] : Acc<T>{1}};
    T* const dx = out.dx + n * out.dx_stride;
    if (!in.w) {
      for_columns([&](int64_t column) {
        const auto pairs = row.at(column);
        store_vector<kWidth>(dx + column, pairs.first.rounded_dv());
        store_vector<kWidth>(dx + column + half, pairs.second.rounded_dv());
      });
      continue;
    }
    ColumnPairs<T, kWidth> held;
    Acc<T> dot = 0;
    for_columns([&](int64_t column) {
      const auto pairs = row.at(column);
      dot += pairs.first.dot() + pairs.second.dot();
      if constexpr (kHeld) held = pairs;
    });
    const Acc<T> projection = rms_projection(block_sum(dot), row.rstd, in.W);
    for_columns([&](int64_t column) {
      if constexpr (!kHeld) held = row.at(column);
      Vector<Acc<T>, kWidth> dw;
      store_vector<kWidth>(dx + column, held.first.grads(row.rstd, projection, dw));
      first_dw.add(column, dw);
      store_vector<kWidth>(dx + column + half, held.second.grads(row.rstd, projection, dw));
      second_dw.add(column, dw);
    });
  }
  if (in.w) for_columns([&](int64_t column) { first_dw.finish(column), second_dw.finish(column); });
}

template <typename T>
Operands<T> operands(const NormRotaryOperands& in) {
  const auto clip = static_cast<Acc<T>>(in.clip.value_or(std::numeric_limits<double>::infinity()));
  return {in.x_NW.const_data_ptr<T>(),
          in.x_NW.stride(0),
          in.x_NW.size(1),
          in.table_Sd.size(1) / 2,
          in.w_W.defined() ? in.w_W.const_data_ptr<T>() : nullptr,
          in.table_Sd.const_data_ptr<Acc<T>>(),
          in.table_Sd.size(0),
          clip};
}

}  // namespace

void norm_rotary(const NormRotaryOperands& in, double eps, NormRotary& out) {
  const int64_t N = in.x_NW.size(0), W = in.x_NW.size(1);
  if (N == 0) return;
  for_dtype(in.x_NW.scalar_type(), [&]<typename T>() {
    const auto row = operands<T>(in);
    Acc<T>* const rstd = row.w ? out.rstd_N.data_ptr<Acc<T>>() : nullptr;
    T* const y = out.y_NW.data_ptr<T>();
    for_row_kernel<T>(W / 2, row.are_vectors(), [&]<int kWidth, bool kHeld>(int threads) {
      rotate_row<T, kWidth, kHeld>
          <<<blocks_for_rows(N), threads, 0, Launch(in.x_NW)>>>(row, static_cast<Acc<T>>(eps), y, rstd);
    });
  });
}

void norm_rotary_backward(const at::Tensor& dy_NW, const NormRotaryOperands& in, const at::Tensor& rstd_N,
                          at::Tensor& dx_NW, at::Tensor& dw_W) {
  const RowChunks chunks{dy_NW.size(0)};
  if (chunks.rows == 0) return;
  for_dtype(dy_NW.scalar_type(), [&]<typename T>() {
    const auto row = operands<T>(in);
    const at::Tensor dw_chunks = row.w ? empty_chunk_sums(chunks, dw_W) : at::Tensor();
    const Gradients<T> out{
        dy_NW.const_data_ptr<T>(), dy_NW.stride(0), row.w ? rstd_N.const_data_ptr<Acc<T>>() : nullptr,
        dx_NW.data_ptr<T>(),       dx_NW.stride(0), row.w ? dw_chunks.data_ptr<Acc<T>>() : nullptr};
    const bool vectors = row.are_vectors() && rows_are_vectors(out.dy, row.half, out.dy_stride) &&
                         rows_are_vectors(out.dx, row.half, out.dx_stride);
    for_row_kernel<T>(row.W / 2, vectors, [&]<int kWidth, bool kHeld>(int threads) {
      backward_chunk<T, kWidth, kHeld>
          <<<blocks_for_rows(chunks.chunks()), threads, 0, Launch(dy_NW)>>>(row, out, chunks);
    });
    if (row.w) add_chunk_sums<Acc<T>>(dw_chunks, dw_W);
  });
}

}  // namespace olmoe::kernels::cuda
