// Rows, one block each: a row is cut into items (vectors, or pairs of vectors), and thread t has items
// t, t + blockDim.x, ... Where every thread has at most one item the row is held in registers; else each pass over it
// reads memory again.
#pragma once
#include "core/error.h"
#include "core/integers.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {

/// Threads of a block that has a row; a kernel of such blocks may use 128 registers a thread.
constexpr int kMaxRowThreads = 512;

/// Whole warps, as many as `items` can use.
inline int threads_for_row(int64_t items) {
  const int64_t warps = std::max<int64_t>(1, ceil_div(items, kWarp));
  return static_cast<int>(std::min<int64_t>(kMaxRowThreads, warps * kWarp));
}

/// One block for each of `rows`, which are fewer than 2^31.
inline unsigned blocks_for_rows(int64_t rows) {
  ENSURE(rows < (int64_t{1} << 31), "{} rows are more than a grid has blocks", rows);
  return static_cast<unsigned>(rows);
}

/// Calls launch<kWidth, kHeld>(threads) for a row of `elements`: items of kWidth elements, 16 bytes if `vectors`,
/// else 1.
template <typename T, typename F>
void for_row_kernel(int64_t elements, bool vectors, const F& launch) {
  for_width<T>(vectors, [&]<int kWidth>() {
    const int64_t items = elements / kWidth;
    const int threads = threads_for_row(items);
    if (items <= threads)
      launch.template operator()<kWidth, true>(threads);
    else
      launch.template operator()<kWidth, false>(threads);
  });
}

/// Calls f(item) for each item of this thread.
template <bool kHeld, typename F>
__device__ inline void for_items(int64_t items, const F& f) {
  if constexpr (kHeld) {
    if (threadIdx.x < items) f(static_cast<int64_t>(threadIdx.x));
  } else {
    for (int64_t item = threadIdx.x; item < items; item += blockDim.x) f(item);
  }
}

/// What a thread reads of one row: where held, the vector at the thread's own column, loaded at once.
template <typename T, int kWidth, bool kHeld>
class RowPart {
 public:
  /// `inside`: whether there is a row with such a column.
  __device__ RowPart(const T* row, int64_t own_column, bool inside) : row_(row) {
    if constexpr (kHeld) {
      if (inside) held_ = load_vector<kWidth>(row + own_column);
    }
  }
  __device__ Vector<T, kWidth> at(int64_t column) const {
    if constexpr (kHeld)
      return held_;
    else
      return load_vector<kWidth>(row_ + column);
  }

 private:
  const T* row_;
  Vector<T, kWidth> held_;
};

}  // namespace olmoe::kernels::cuda
