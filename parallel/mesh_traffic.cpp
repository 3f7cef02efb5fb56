#include "parallel/mesh_traffic.h"

#include <array>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

constexpr std::array<std::pair<Collective, Traffic::Count Traffic::*>, 6> kKinds{{
    {Collective::all_gather, &Traffic::all_gather},
    {Collective::reduce_scatter, &Traffic::reduce_scatter},
    {Collective::all_reduce, &Traffic::all_reduce},
    {Collective::all_to_all, &Traffic::all_to_all},
    {Collective::broadcast, &Traffic::broadcast},
    {Collective::barrier, &Traffic::barrier},
}};

void add_axis(MeshTraffic& counts, const char* name, const Communicator& axis) {
  if (axis.size() == 1) return;
  const Traffic& traffic = axis.diagnostics().traffic();
  for (const auto& [kind, member] : kKinds) {
    const auto key = fmt::format("{}/{}", name, name_of(kind));
    counts["calls/" + key] = (traffic.*member).calls;
    counts["sent_bytes/" + key] = (traffic.*member).bytes;
  }
}

}  // namespace

MeshTraffic traffic_of(DeviceMesh& mesh) {
  MeshTraffic counts;
  add_axis(counts, "world", mesh.world());
  add_axis(counts, "replicate", mesh.replicate());
  add_axis(counts, "shard", mesh.shard());
  add_axis(counts, "expert", mesh.expert());
  add_axis(counts, "expert_shard", mesh.expert_shard());
  return counts;
}

MeshTraffic traffic_between(const MeshTraffic& before, const MeshTraffic& after) {
  MeshTraffic grown;
  for (const auto& [key, count] : after)
    if (const int64_t more = count - before.at(key); more != 0) grown.emplace(key, more);
  return grown;
}

}  // namespace olmoe
