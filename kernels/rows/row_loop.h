// Loops over rows on a CPU: parallel over the intra-op threads, and compiled for AVX2 and AVX-512, one of which is
// chosen at run time.
#pragma once
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/integers.h"

namespace olmoe::kernels {

/// Whether loops use 512-bit vectors: ATen's decision, so that ATEN_CPU_CAPABILITY=avx2 applies to both.
bool has_avx512();

#if defined(__x86_64__)
// One binary for every CPU with AVX2, which the program requires. `flatten` inlines the whole body into a function that
// is compiled for one instruction set, so that a loop marked `#pragma omp simd` is vectorised for each. The body is
// copied to keep captured pointers in registers: read through a reference, they might alias each store.
template <typename Body>
[[gnu::target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"), gnu::flatten]] void with_avx512(const Body& body,
                                                                                              int64_t begin,
                                                                                              int64_t end) {
  const Body local = body;
  local(begin, end);
}
template <typename Body>
[[gnu::target("avx2,fma"), gnu::flatten]] void with_avx2(const Body& body, int64_t begin, int64_t end) {
  const Body local = body;
  local(begin, end);
}
#endif

/// Calls body(begin, end) on this thread, compiled for the widest vectors of this CPU.
template <typename Body>
void vectorized(const Body& body, int64_t begin, int64_t end) {
#if defined(__x86_64__)
  has_avx512() ? with_avx512(body, begin, end) : with_avx2(body, begin, end);
#else
  body(begin, end);
#endif
}

/// Calls body(begin, end) for ranges that cover [0, rows), in parallel. `row_elements`: the cost of a row, for the
/// grain size.
template <typename Body>
void for_rows(int64_t rows, int64_t row_elements, const Body& body) {
  constexpr int64_t kElementsPerTask = 16384;
  const int64_t grain = std::max<int64_t>(1, kElementsPerTask / std::max<int64_t>(1, row_elements));
  at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) { vectorized(body, begin, end); });
}

/// total[j] += sum over rows: body(begin, end, partial) adds rows [begin, end) to a zeroed partial sum [width]. Chunks
/// and their order depend on `rows` alone, so the result is bit-identical for any number of threads.
template <typename Acc, typename Body>
void sum_over_rows(int64_t rows, int64_t width, Acc* total, const Body& body) {
  constexpr int64_t kMinRowsPerChunk = 16, kMaxChunks = 128;
  const int64_t chunk_rows = std::max(kMinRowsPerChunk, ceil_div(rows, kMaxChunks));
  const int64_t chunks = ceil_div(rows, chunk_rows);
  std::vector<Acc> partial(chunks * width, Acc{0});
  Acc* const partials = partial.data();
  for_rows(chunks, chunk_rows * width, [=](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c)
      body(c * chunk_rows, std::min(rows, (c + 1) * chunk_rows), partials + c * width);
  });
  for_rows(width, chunks, [=](int64_t begin, int64_t end) {
    for (int64_t c = 0; c < chunks; ++c) {
      const Acc* const addend = partials + c * width;
#pragma omp simd
      for (int64_t j = begin; j < end; ++j) total[j] += addend[j];
    }
  });
}

}  // namespace olmoe::kernels
