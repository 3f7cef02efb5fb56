#include "trainer/planner/grouped_product.h"

#include <algorithm>
#include <cmath>
#include <queue>
#include <vector>

#include "core/integers.h"

namespace olmoe {
namespace {

constexpr int64_t kTileK = 64;
/// Cycles from the end of a tile to the first MMA of the next, where no other tile is computed meanwhile.
constexpr double kTileStart = 300;

/// Rows of each expert with routing that favours none: spread evenly, with the deviation that chance gives, in no
/// order.
std::vector<int64_t> rows_of_experts(double rows, int64_t experts) {
  constexpr double kGoldenRatio = 0.6180339887498949;
  const double count = static_cast<double>(experts), mean = rows / count;
  const double deviation = std::sqrt((1 - 1 / count) / std::max(mean, 1.0));
  std::vector<int64_t> out;
  for (int64_t e = 0; e < experts; ++e) {
    double whole = 0;
    const double spread = 2 * std::modf((static_cast<double>(e) + 0.5) * kGoldenRatio, &whole) - 1;
    out.push_back(std::llround(mean * (1 + std::min(1.0, deviation * std::sqrt(3)) * spread)));
  }
  return out;
}

/// Tiles of one expert, all alike.
struct Tiles {
  int64_t count;
  double cycles;
};

/// The busiest of `blocks` blocks that get tiles round-robin.
double round_robin(const std::vector<Tiles>& tiles, int blocks) {
  std::vector<double> busy(static_cast<size_t>(blocks));
  int64_t next = 0;
  for (const auto& [count, cycles] : tiles) {
    for (int64_t i = 0; i < std::min<int64_t>(count, blocks); ++i) {
      const int64_t more = (count - 1 - i) / blocks;  // that this block gets, after this one
      busy[static_cast<size_t>((next + i) % blocks)] += cycles * static_cast<double>(1 + more);
    }
    next += count;
  }
  return *std::max_element(busy.begin(), busy.end());
}

/// The same where a tile goes to the block that is free first.
double by_counter(const std::vector<Tiles>& tiles, int blocks) {
  std::priority_queue<double, std::vector<double>, std::greater<>> free_at(
      {}, std::vector<double>(static_cast<size_t>(blocks)));
  double last = 0;
  for (const auto& [count, cycles] : tiles)
    for (int64_t i = 0; i < count; ++i) {
      const double end = free_at.top() + cycles;
      free_at.pop();
      free_at.push(end);
      last = std::max(last, end);
    }
  return last;
}

/// Cycles of one tile.
struct TileTime {
  double loading, multiplying;  ///< which run at the same time
  double epilogue;              ///< of multiplying, without a main loop that overlaps
  double total() const { return std::max(loading, multiplying); }
};

TileTime tile_time(const TileKernel& kernel, int64_t k_tiles, const GpuRates& rates) {
  const auto steps = static_cast<double>(k_tiles);
  const auto cycles = [&](const LoadCycles& load) { return load.issued + load.l2_waits * rates.l2_cycles; };
  const double loading = steps * cycles(kernel.k_tile) + cycles(kernel.start);
  const double flops = 2.0 * static_cast<double>(kernel.rows * kernel.columns * kTileK);
  const double main_loop = steps * flops / kFlopPerCycle / (kernel.efficiency * rates.main_loop);
  const double epilogue = kernel.epilogue * rates.epilogue;
  if (kernel.ping_pong) return {loading, std::max(main_loop, (main_loop + epilogue) / 2), 0};
  return {loading, main_loop + epilogue + kTileStart, epilogue};
}

}  // namespace

ProductTime product_time(const GroupedProduct& product, const GpuRates& rates) {
  const GroupedGemm& gemm = product.gemm;
  const TileKernel& kernel = product.kernel;
  const auto of_rows = [&](int64_t rows) {
    return tile_time(kernel, ceil_div(gemm.k > 0 ? gemm.k : rows, kTileK), rates);
  };
  const int64_t columns = ceil_div(gemm.n, kernel.columns);
  std::vector<Tiles> tiles;
  for (const int64_t rows : rows_of_experts(gemm.rows, gemm.experts)) {
    const int64_t along_m =
        gemm.m > 0 ? ceil_div(gemm.m, kernel.rows) : kernel.cluster * ceil_div(rows, kernel.rows * kernel.cluster);
    tiles.push_back({rows > 0 ? along_m * columns : 0, of_rows(rows).total()});
  }
  const double cycles = (kernel.counter ? by_counter : round_robin)(tiles, rates.multiprocessors);
  const double computing = cycles / rates.clock_hz, memory = gemm.bytes / rates.memory_byte_per_s;
  const auto usual = of_rows(std::llround(gemm.rows / static_cast<double>(gemm.experts)));
  const Limit limit = memory > computing                  ? Limit::memory
                      : usual.loading > usual.multiplying ? Limit::loading_warps
                                                          : Limit::tensor_cores;
  return {std::max(computing, memory), memory, limit, usual.epilogue / usual.total()};
}

}  // namespace olmoe
