#include "kernels/cached_attention.h"

#include <ATen/ops/empty.h>

#include <vector>

#include "kernels/attention_element.h"

// As in attention.cpp, a block of queries is multiplied with all keys that one of them sees. Positions are those of the
// cache; the rows of a run are elsewhere in q and y, at `row`.
namespace olmoe::kernels {
namespace {

/// A run as a segment of its sequence, and its first row.
struct Task {
  Segment segment;
  int64_t row;
};

struct Tasks {
  std::vector<Task> list = {};
  int64_t window = 0, longest = 0, most_keys = 0, blocks = 0;
};

Tasks tasks_of(std::span<const CachedRun> runs, int64_t window) {
  Tasks out;
  int64_t row = 0;
  for (const auto& run : runs) {
    out.list.push_back({{run.sequence, run.first, run.count}, row});
    row += run.count;
    out.longest = std::max(out.longest, run.count);
    out.most_keys = std::max(out.most_keys, run.first + run.count);
    out.blocks += out.list.back().segment.blocks();
  }
  out.window = window > 0 ? std::min(window, out.most_keys) : out.most_keys;
  return out;
}

/// The keys begin at the sequence's first position, not at that of the run.
Block block_of(const Segment& run, int64_t index, int64_t window) {
  const int64_t first = run.begin + index * kQueryBlock;
  const int64_t end = std::min(first + kQueryBlock, run.begin + run.length);
  const int64_t key = std::max<int64_t>(0, first + 1 - window);
  return {first, end - first, key, end - key, window};
}

template <typename T>
struct CachedForward {
  const Tasks& tasks;
  int64_t heads, group, d;  ///< group: query heads of one key head
  Acc<T> scale;
  Heads<const T> q, k, v;
  Heads<T> y;

  /// Tasks [begin, end) of runs * H * blocks of a run.
  void operator()(int64_t begin, int64_t end) const {
    const int64_t rows = std::min(tasks.longest, kQueryBlock);
    const int64_t keys = std::min(tasks.most_keys, tasks.window + rows);
    Rounded<T> scores(rows * keys);
    const auto out = scratch<Acc<T>>(rows * d);
    const auto sums = scratch<Acc<T>>(rows), lse = scratch<Acc<T>>(rows);
    int64_t first_task = 0;  // of a run
    for (const auto& [run, row] : tasks.list) {
      const int64_t blocks = run.blocks();
      for (int64_t task = std::max(begin, first_task); task < std::min(end, first_task + heads * blocks); ++task) {
        const int64_t h = (task - first_task) / blocks, g = h / group;
        const Block block = block_of(run, (task - first_task) % blocks, tasks.window);
        const int64_t block_row = row + block.first - run.begin;
        blas::multiply({block.rows, block.keys, d}, scale, q.at(0, h, block_row), transposed(k.at(run.b, g, block.key)),
                       0, {scores.exact.get(), block.keys});
        exponentials<T>(block, scores.exact.get(), scores.get(), sums.get(), lse.get());
        blas::multiply({block.rows, d, block.keys}, 1, {scores.get(), block.keys}, v.at(run.b, g, block.key), 0,
                       {out.get(), d});
        divide_rows<T>(block.rows, d, out.get(), sums.get(), y.at(0, h, block_row));
      }
      first_task += heads * blocks;
    }
  }
};

void check_cache(const KeyValues& cache, const at::Tensor& rows, std::span<const CachedRun> runs, const char* name) {
  const auto &k = cache.k_BGSd, &v = cache.v_BGSd;
  ensure_dim(rows, 3, name);
  ensure_dim(k, 4, "cached attention: k");
  ensure_dim(v, 4, "cached attention: v");
  ENSURE(k.sizes() == v.sizes() && k.is_contiguous() && v.is_contiguous(),
         "cached attention: keys and values must be contiguous and of one shape");
  ENSURE(k.is_cpu() && v.is_cpu() && rows.is_cpu(), "{}: there is a kernel for CPUs alone", name);
  ENSURE(rows.scalar_type() == k.scalar_type() && v.scalar_type() == k.scalar_type(), "{} is {}, the cache {} and {}",
         name, c10::toString(rows.scalar_type()), c10::toString(k.scalar_type()), c10::toString(v.scalar_type()));
  ENSURE(rows.size(2) == k.size(3), "{}: heads of {}, in the cache of {}", name, rows.size(2), k.size(3));
  int64_t count = 0;
  for (const auto& run : runs) {
    ENSURE(run.sequence >= 0 && run.sequence < k.size(0) && run.first >= 0 && run.count > 0 &&
               run.first + run.count <= k.size(2),
           "{}: positions {} to {} of sequence {} are not in a cache of {} sequences of {}", name, run.first,
           run.first + run.count - 1, run.sequence, k.size(0), k.size(2));
    count += run.count;
  }
  ENSURE(count == rows.size(0), "{}: runs of {} tokens in all, {} rows", name, count, rows.size(0));
}

}  // namespace

void store_keys_values(const KeyValues& cache, const at::Tensor& k_NGd, const at::Tensor& v_NGd,
                       std::span<const CachedRun> runs) {
  check_cache(cache, k_NGd, runs, "cached attention: new k");
  check_cache(cache, v_NGd, runs, "cached attention: new v");
  const int64_t G = cache.k_BGSd.size(1), d = cache.k_BGSd.size(3);
  ENSURE(k_NGd.size(1) == G && v_NGd.size(1) == G, "cached attention: {} and {} key/value heads, in the cache {}",
         k_NGd.size(1), v_NGd.size(1), G);
  for (const auto& [from, to] :
       {std::pair(dense_rows(k_NGd), cache.k_BGSd), std::pair(dense_rows(v_NGd), cache.v_BGSd)})
    for_dtype(to.scalar_type(), [&, rows = from, held = to]<typename T>() {
      const auto source = read_heads<T>(rows.unsqueeze(0));
      const auto target = write_heads<T>(held.transpose(1, 2));
      int64_t row = 0;
      for (const auto& run : runs)
        for (int64_t position = run.first; position < run.first + run.count; ++position, ++row)
          for (int64_t g = 0; g < G; ++g)
            std::copy_n(source.at(0, g, row).data, d, target.at(run.sequence, g, position).data);
    });
}

at::Tensor cached_attention(const at::Tensor& q_NHd, const KeyValues& cache, std::span<const CachedRun> runs,
                            int64_t window) {
  check_cache(cache, q_NHd, runs, "cached attention: q");
  ENSURE(window >= 0, "cached attention: a window of {} keys", window);
  const int64_t H = q_NHd.size(1), G = cache.k_BGSd.size(1), d = q_NHd.size(2);
  ENSURE(G > 0 && H % G == 0, "cached attention: {} key/value heads do not divide {} heads", G, H);
  const auto q = dense_rows(q_NHd).unsqueeze(0), k = cache.k_BGSd.transpose(1, 2), v = cache.v_BGSd.transpose(1, 2);
  const auto y_NHd = at::empty(q_NHd.sizes(), q_NHd.options());
  const auto tasks = tasks_of(runs, window);
  for_dtype(q.scalar_type(), [&]<typename T>() {
    const CachedForward<T> forward{tasks,
                                   H,
                                   H / G,
                                   d,
                                   score_scale<T>(d),
                                   read_heads<T>(q),
                                   read_heads<T>(k),
                                   read_heads<T>(v),
                                   write_heads<T>(y_NHd.unsqueeze(0))};
    at::parallel_for(0, H * tasks.blocks, 1, forward);
  });
  return y_NHd;
}

}  // namespace olmoe::kernels
