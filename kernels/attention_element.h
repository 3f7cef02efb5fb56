// What attention on a CPU does to a block of queries, for sequences that are whole and for caches of keys.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <type_traits>

#include "kernels/attention_index.h"
#include "kernels/blas.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {

/// A [B, S, heads, d] tensor, accessed one head at a time.
template <typename T>
struct Heads {
  T* data;
  int64_t batch_stride, position_stride, head_stride;

  /// Head h of sequence b from `position`, as a matrix [S - position, d].
  blas::Matrix<T> at(int64_t b, int64_t h, int64_t position = 0) const {
    return {data + b * batch_stride + position * position_stride + h * head_stride, position_stride};
  }
};
template <typename T>
Heads<const T> read_heads(const at::Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}
template <typename T>
Heads<T> write_heads(const at::Tensor& x) {
  return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

/// The alignment of tensors: MKL is bit-identical only for operands of equal alignment.
inline constexpr std::align_val_t kScratchAlignment{64};
struct AlignedFree {
  void operator()(void* memory) const { ::operator delete[](memory, kScratchAlignment); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], AlignedFree>;
template <typename T>
Scratch<T> scratch(int64_t elements) {
  return Scratch<T>(static_cast<T*>(::operator new[](elements * sizeof(T), kScratchAlignment)));
}

/// Values in Acc<T> and a copy rounded to T; one buffer if T is Acc<T>.
template <typename T>
struct Rounded {
  explicit Rounded(int64_t elements) : exact(scratch<Acc<T>>(elements)) {
    if constexpr (!std::is_same_v<T, Acc<T>>) own = scratch<T>(elements);
  }
  T* get() {
    if constexpr (std::is_same_v<T, Acc<T>>)
      return exact.get();
    else
      return own.get();
  }
  Scratch<Acc<T>> exact;
  Scratch<T> own;
};

/// exps [rows, keys] = exp(score - row maximum), zero for keys that a query does not see; for each row also their sum
/// and the log-sum-exp of its scores.
template <typename T>
void exponentials(Block block, const Acc<T>* scores, T* exps, Acc<T>* sums, Acc<T>* lse) {
  auto rows = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto seen = block.visible(i);
      const int64_t key = seen.begin, visible = seen.end - key;
      const Acc<T>* const s = scores + i * block.keys + key;
      T* const p = exps + i * block.keys + key;
      Acc<T> largest = s[0], sum = 0;
#pragma omp simd reduction(max : largest)
      for (int64_t j = 0; j < visible; ++j) largest = s[j] > largest ? s[j] : largest;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < visible; ++j) {
        p[j] = rounded<T>(fast_exp(s[j] - largest));
        sum += load(p[j]);
      }
      for (int64_t j = -key; j < 0; ++j) p[j] = rounded<T>(0);
      for (int64_t j = visible; j < block.keys - key; ++j) p[j] = rounded<T>(0);
      sums[i] = sum;
      lse[i] = largest + std::log(sum);
    }
  };
  vectorized(rows, 0, block.rows);
}

/// y [rows, d] = x / sums, rounded; x is dense.
template <typename T>
void divide_rows(int64_t rows, int64_t d, const Acc<T>* x, const Acc<T>* sums, blas::Matrix<T> y) {
  auto body = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Acc<T> scale = 1 / sums[i];
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) y.data[i * y.row_stride + j] = rounded<T>(x[i * d + j] * scale);
    }
  };
  vectorized(body, 0, rows);
}

template <typename T>
blas::Matrix<const T> transposed(blas::Matrix<const T> x) {
  x.transposed = true;
  return x;
}

template <typename T>
Acc<T> score_scale(int64_t d) {
  return 1 / std::sqrt(static_cast<Acc<T>>(d));
}

}  // namespace olmoe::kernels
