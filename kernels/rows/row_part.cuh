// One block per row. A row is divided into items (vectors, or pairs of vectors); thread t has items t, t + blockDim.x,
// ... If every thread has at most one item (kHeld), the row is held in registers; otherwise each pass over it reads
// memory again.
#pragma once
#include "core/error.h"
#include "core/integers.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {

/// Maximum threads of a block that has a row, which leaves 128 registers for each.
constexpr int kMaxRowThreads = 512;

/// Threads for `items` items: whole warps, at most kMaxRowThreads.
inline int threads_for_row(int64_t items) {
  const int64_t warps = std::max<int64_t>(1, ceil_div(items, kWarp));
  return static_cast<int>(std::min<int64_t>(kMaxRowThreads, warps * kWarp));
}

/// One block for each row. Throws Error for 2^31 rows or more, the limit of a grid.
inline unsigned blocks_for_rows(int64_t rows) {
  ENSURE(rows < (int64_t{1} << 31), "{} rows are more than a grid can have blocks (2^31 - 1)", rows);
  return static_cast<unsigned>(rows);
}

/// Calls launch<kWidth, kHeld>(threads) for rows of `elements` elements: items of kWidth elements, 16 bytes if
/// `vectors`, else one element.
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

/// A thread's vectors of one row. If kHeld, the vector at the thread's own column, loaded by the constructor.
template <typename T, int kWidth, bool kHeld>
class RowPart {
 public:
  /// `inside`: whether the row exists and has this column.
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
