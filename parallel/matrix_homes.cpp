#include "parallel/matrix_homes.h"

#include <algorithm>
#include <limits>
#include <set>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

/// A matrix that needs a home.
struct Item {
  size_t unit, matrix;
  double flops;
};

/// Elements of a matrix in the shard of a rank, with their first.
struct Overlap {
  int rank;
  int64_t begin, numel;
};

/// The ranks that hold parts of a matrix, in rank order.
std::vector<Overlap> overlaps_of(const MatrixUnit& unit, const FlatMatrix& matrix) {
  std::vector<Overlap> out;
  const int64_t end = matrix.begin + matrix.numel();
  for (int64_t begin = matrix.begin; begin < end;) {
    const int64_t rank = begin / unit.shard_numel, stop = std::min(end, (rank + 1) * unit.shard_numel);
    out.push_back({static_cast<int>(rank), begin, stop - begin});
    begin = stop;
  }
  return out;
}

/// The ranks of a group by their load; the least loaded, and of those the lowest, is first.
class Loads {
 public:
  explicit Loads(std::vector<double> loads) : loads_(std::move(loads)) {
    for (size_t rank = 0; rank < loads_.size(); ++rank) order_.insert({loads_[rank], static_cast<int>(rank)});
  }
  int least() const { return order_.begin()->second; }
  double of(int rank) const { return loads_[static_cast<size_t>(rank)]; }
  double most() const { return order_.rbegin()->first; }
  void add(int rank, double flops) {
    auto& load = loads_[static_cast<size_t>(rank)];
    order_.erase({load, rank});
    load += flops;
    order_.insert({load, rank});
  }

 private:
  std::vector<double> loads_;
  std::set<std::pair<double, int>> order_;
};

/// The rank that holds most of a matrix, of those whose load stays within `bound`; else the least loaded.
int choose_home(const MatrixUnit& unit, const Item& item, const Loads& loads, double bound) {
  auto holders = overlaps_of(unit, unit.matrices[item.matrix]);
  std::ranges::stable_sort(holders, std::ranges::greater(), &Overlap::numel);
  for (const auto& holder : holders)
    if (loads.of(holder.rank) + item.flops <= bound) return holder.rank;
  return loads.least();
}

/// Gives every item a home, in the order of `items`; returns the loads afterwards.
Loads assign(std::span<const MatrixUnit> units, std::span<const Item> items, Loads loads, double bound,
             MatrixHomes& homes) {
  for (const auto& item : items) {
    const int home = choose_home(units[item.unit], item, loads, bound);
    homes[item.unit][item.matrix] = home;
    loads.add(home, item.flops);
  }
  return loads;
}

std::vector<Item> items_of(std::span<const MatrixUnit> units, int ranks) {
  std::vector<Item> items;
  for (size_t u = 0; u < units.size(); ++u)
    for (size_t m = 0; units[u].ranks == ranks && m < units[u].matrices.size(); ++m)
      items.push_back({u, m, newton_schulz_flops(units[u].matrices[m].rows, units[u].matrices[m].cols)});
  std::ranges::stable_sort(items, std::ranges::greater(), &Item::flops);
  return items;
}

/// Sizes of groups, the smallest first.
std::set<int> group_sizes(std::span<const MatrixUnit> units) {
  std::set<int> sizes;
  for (const auto& unit : units) sizes.insert(unit.ranks);
  for (const int size : sizes)
    ENSURE(size > 0 && *sizes.rbegin() % size == 0, "groups of {} and of {} ranks", size, *sizes.rbegin());
  return sizes;
}

}  // namespace

double newton_schulz_flops(int64_t rows, int64_t cols) {
  const auto n = static_cast<double>(std::min(rows, cols)), m = static_cast<double>(std::max(rows, cols));
  return 4 * n * n * m + 2 * n * n * n;
}

MatrixHomes plan_homes(std::span<const MatrixUnit> units) {
  MatrixHomes homes;
  for (const auto& unit : units) homes.emplace_back(unit.matrices.size());
  const auto sizes = group_sizes(units);
  if (sizes.empty()) return homes;
  std::vector<double> of_widest(static_cast<size_t>(*sizes.rbegin()));
  for (const int size : sizes) {
    const size_t stride = of_widest.size() / static_cast<size_t>(size);
    std::vector<double> before;  // the most of the ranks that are one here
    for (size_t w = 0; w < of_widest.size(); w += stride)
      before.push_back(*std::max_element(of_widest.begin() + static_cast<std::ptrdiff_t>(w),
                                         of_widest.begin() + static_cast<std::ptrdiff_t>(w + stride)));
    const auto items = items_of(units, size);
    const double nowhere = -std::numeric_limits<double>::infinity();
    const double bound = assign(units, items, Loads(before), nowhere, homes).most();
    const auto after = assign(units, items, Loads(before), bound, homes);
    for (size_t w = 0; w < of_widest.size(); ++w)
      of_widest[w] += after.of(static_cast<int>(w / stride)) - before[w / stride];
  }
  return homes;
}

std::vector<double> flops_of_ranks(std::span<const MatrixUnit> units, const MatrixHomes& homes) {
  const auto sizes = group_sizes(units);
  std::vector<double> out(sizes.empty() ? 0 : static_cast<size_t>(*sizes.rbegin()));
  for (size_t u = 0; u < units.size(); ++u) {
    const size_t stride = out.size() / static_cast<size_t>(units[u].ranks);
    for (size_t m = 0; m < units[u].matrices.size(); ++m)
      for (size_t i = 0; i < stride; ++i)
        out[static_cast<size_t>(homes[u][m]) * stride + i] +=
            newton_schulz_flops(units[u].matrices[m].rows, units[u].matrices[m].cols);
  }
  return out;
}

MatrixExchange plan_exchange(std::span<const MatrixUnit> units, const MatrixHomes& homes, int rank) {
  const auto ranks = units.empty() ? size_t{0} : static_cast<size_t>(units.front().ranks);
  std::vector<std::vector<MatrixPiece>> to(ranks), from(ranks);
  for (size_t u = 0; u < units.size(); ++u) {
    ENSURE(units[u].ranks == units.front().ranks, "units of {} and of {} ranks", units[u].ranks, units.front().ranks);
    for (size_t m = 0; m < units[u].matrices.size(); ++m) {
      const auto& matrix = units[u].matrices[m];
      for (const auto& [holder, begin, numel] : overlaps_of(units[u], matrix)) {
        const MatrixPiece piece{u, m, begin - matrix.begin, begin - holder * units[u].shard_numel, 0, numel};
        if (holder == rank) to[static_cast<size_t>(homes[u][m])].push_back(piece);
        if (homes[u][m] == rank) from[static_cast<size_t>(holder)].push_back(piece);
      }
    }
  }
  MatrixExchange out;
  const auto join = [](auto& by_rank, std::vector<int64_t>& counts, std::vector<MatrixPiece>& pieces) {
    int64_t total = 0;
    for (auto& of_rank : by_rank) {
      const int64_t before = total;
      for (auto& piece : of_rank) {
        piece.in_buffer = total;
        total += piece.numel;
        pieces.push_back(piece);
      }
      counts.push_back(total - before);
    }
  };
  join(to, out.sent, out.sent_pieces);
  join(from, out.received, out.home_pieces);
  return out;
}

std::vector<MatrixShare> shares_of_ranks(std::span<const MatrixUnit> units, const MatrixHomes& homes) {
  std::vector<MatrixShare> out(units.empty() ? 0 : static_cast<size_t>(units.front().ranks));
  for (size_t u = 0; u < units.size(); ++u)
    for (size_t m = 0; m < units[u].matrices.size(); ++m)
      for (const auto& overlap : overlaps_of(units[u], units[u].matrices[m])) {
        out[static_cast<size_t>(overlap.rank)].held += overlap.numel;
        out[static_cast<size_t>(homes[u][m])].homed += overlap.numel;
        if (overlap.rank == homes[u][m]) out[static_cast<size_t>(overlap.rank)].kept += overlap.numel;
      }
  return out;
}

int64_t matrices_at_once(int64_t rows, int64_t cols) {
  constexpr int64_t kNumel = int64_t{1} << 25;
  return std::max<int64_t>(1, kNumel / (rows * cols));
}

int64_t newton_schulz_numel(int64_t count, int64_t rows, int64_t cols) {
  const int64_t shorter = std::min(rows, cols);
  return count * (3 * rows * cols + shorter * shorter);
}

}  // namespace olmoe
