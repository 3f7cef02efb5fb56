#include "parallel/topology.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"

namespace olmoe {
namespace {

/// Ranks with equal (rank / stride / size, rank % stride) are one group of the axis.
struct AxisLayout {
  const char* name;
  int size, stride;
};

std::array<AxisLayout, 4> axes_of(MeshShape shape) {  // innermost first
  return {{{"expert", shape.expert, 1},
           {"expert_shard", shape.expert_shard(), shape.expert},
           {"shard", shape.shard, 1},
           {"replicate", shape.replicate, shape.shard}}};
}

bool stays_within_hosts(const AxisLayout& axis, const std::vector<std::string>& host_of_rank) {
  for (int rank = 0; rank < static_cast<int>(host_of_rank.size()); ++rank) {
    const bool last_of_group = rank / axis.stride % axis.size == axis.size - 1;
    if (!last_of_group && host_of_rank[rank] != host_of_rank[rank + axis.stride]) return false;
  }
  return true;
}

/// The hosts of the same ranks numbered host by host, in order of appearance.
std::vector<std::string> numbered_by_host(const std::vector<std::string>& host_of_rank) {
  std::map<std::string, size_t> first;
  for (size_t rank = 0; rank < host_of_rank.size(); ++rank) first.emplace(host_of_rank[rank], rank);
  auto sorted = host_of_rank;
  std::ranges::stable_sort(sorted, {}, [&](const std::string& host) { return first.at(host); });
  return sorted;
}

std::string ranks_on_hosts(const std::vector<std::string>& host_of_rank) {
  std::map<std::string, int> ranks;
  for (const auto& host : host_of_rank) ranks[host] += 1;
  std::set<int> numbers;
  for (const auto& [host, count] : ranks) numbers.insert(count);
  if (host_of_rank.size() == 1) return "1 rank";
  if (ranks.size() == 1) return fmt::format("{} ranks on 1 host", host_of_rank.size());
  const auto each = numbers.size() == 1 ? fmt::format("{} each", *numbers.begin())
                                        : fmt::format("{} to {} each", *numbers.begin(), *numbers.rbegin());
  return fmt::format("{} ranks on {} hosts, {}", host_of_rank.size(), ranks.size(), each);
}

}  // namespace

Topology describe_topology(const std::vector<std::string>& host_of_rank, MeshShape shape) {
  ENSURE(std::ssize(host_of_rank) == int64_t{shape.replicate} * shape.shard, "{} hosts are named for {} ranks",
         host_of_rank.size(), shape.replicate * shape.shard);
  const auto by_host = numbered_by_host(host_of_rank);
  Topology out;
  std::vector<std::string> within, between;
  for (const auto& axis : axes_of(shape)) {
    if (axis.size == 1) continue;
    const bool stays = stays_within_hosts(axis, host_of_rank);
    (stays ? within : between).push_back(axis.name);
    if (!stays && stays_within_hosts(axis, by_host)) out.scattered.push_back(axis.name);
  }
  out.summary = ranks_on_hosts(host_of_rank);
  if (!within.empty()) out.summary += fmt::format("; within a host: {}", fmt::join(within, ", "));
  if (!between.empty()) out.summary += fmt::format("; between hosts: {}", fmt::join(between, ", "));
  return out;
}

}  // namespace olmoe
