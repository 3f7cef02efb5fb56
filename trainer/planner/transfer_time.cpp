#include "trainer/planner/transfer_time.h"

#include <algorithm>

#include "model/cost.h"
#include "trainer/planner/collective_bytes.h"

namespace olmoe {
namespace {

/// Share of a link's rate that NCCL reaches in large all-gathers and reduce-scatters that overlap with kernels.
constexpr double kLink = 0.80;
// Latencies of NCCL's own cost model, for rings and its protocol for large messages (src/graph/tuning.cc): a call,
// a step of the ring between GPUs of a node, and one between nodes.
constexpr double kCall_s = 8.4e-6, kNvlinkStep_s = 3.4e-6, kNetworkStep_s = 14e-6;

/// One unit in a step's collectives.
struct UnitTimes {
  double gather, reduce, replicas;
};

UnitTimes unit_times(const UnitSize& unit, int stride, MeshShape mesh, const Config& config, const GpuSpecs& gpu) {
  if (unit.numel == 0) return {};
  const auto bytes = [](int64_t numel, int64_t each) { return static_cast<double>(numel * each); };
  const RankGroup group{unit.ranks, stride}, replicate{mesh.replicate, mesh.shard};
  // An all-reduce is a reduce-scatter and an all-gather.
  return {gather_seconds(bytes(unit.numel, compute_bytes(config)), group, gpu),
          gather_seconds(bytes(unit.numel, reduce_bytes(config)), group, gpu),
          2 * gather_seconds(bytes(unit.slice(), master_bytes(config)), replicate, gpu)};
}

void add_exchange(TransferTimes& out, const Config& config, MeshShape mesh, double tokens, const GpuSpecs& gpu) {
  const auto& model = config.model;
  if (mesh.expert == 1 || !model.has_experts()) return;
  const RankGroup group{mesh.expert, 1};
  const auto chunks = static_cast<double>(config.parallel.expert_chunks);
  const auto step = count_step(config, mesh);
  const auto calls = static_cast<double>(step.passes * model.num_moe_layers()) * chunks;
  const double copies = expected_copies(model, mesh.expert) * tokens * static_cast<double>(model.num_moe_layers()) /
                        calls;  // of one call
  const auto row = static_cast<double>(model.expert_dim() * compute_bytes(config));
  const auto scores = static_cast<double>(model.choices() * master_bytes(config));
  const auto ids = static_cast<double>(model.choices()) * sizeof(int32_t);
  const auto time = [&](double bytes) { return calls * exchange_seconds(copies * bytes, group, gpu); };
  const double there_and_back = time(row) + time(scores) + time(row);  // its backward takes as long
  const double counts = time(0) / chunks;                              // of all chunks in one call, before them
  const double forwards = static_cast<double>(step.passes + step.counted_passes) / static_cast<double>(step.passes);
  out.forward_exchange = forwards * (counts + time(ids) + there_and_back);
  out.backward_exchange = there_and_back * (config.train.recompute == Recompute::full ? 2 : 1);
}

/// Both ways of the rank that sends most, as if its pieces went to all ranks of the group alike.
double matrix_seconds(const MuonPlan& muon, const Config& config, MeshShape mesh, const GpuSpecs& gpu) {
  const auto time = [&](const MuonPlan::Group& matrices, RankGroup group) {
    const double each_way = static_cast<double>(matrices.sent * compute_bytes(config)) / 2;
    return matrices.held > 0 ? 2 * exchange_seconds(each_way, group, gpu) : 0;
  };
  return time(muon.dense, {mesh.shard, 1}) + time(muon.experts, {mesh.expert_shard(), mesh.expert});
}

}  // namespace

int RankGroup::per_node() const { return std::max(1, std::min(size, kGpusPerNode / std::min(stride, kGpusPerNode))); }

/// Inside a node each GPU receives all that it lacks over NVLink; a node receives what it lacks over the adapters of
/// the group's ranks on it. Both run at the same time.
double gather_seconds(double bytes, RankGroup group, const GpuSpecs& gpu) {
  if (group.size == 1) return 0;
  const double ranks = group.size, local = group.per_node(), nodes = group.nodes();
  const double inside = local > 1 ? bytes * (ranks - 1) / ranks / gpu.nvlink_byte_per_s : 0;
  const double between = bytes * (nodes - 1) / nodes / (local * gpu.network_byte_per_s);
  return kCall_s + (ranks - nodes) * kNvlinkStep_s + (nodes - 1) * kNetworkStep_s + std::max(inside, between) / kLink;
}

double exchange_seconds(double bytes, RankGroup group, const GpuSpecs& gpu) {
  if (group.size == 1) return 0;
  const double to_each = bytes / (group.size - 1), local = group.per_node();
  const double inside = to_each * (local - 1) / gpu.nvlink_byte_per_s;
  const double between = to_each * (group.size - local) / gpu.network_byte_per_s;
  return kCall_s + (group.nodes() > 1 ? kNetworkStep_s : kNvlinkStep_s) + std::max(inside, between) / kLink;
}

TransferTimes predict_transfers(const Config& config, const ModelOnMesh& model, double tokens, const GpuSpecs& gpu) {
  const auto& mesh = model.mesh;
  const auto& units = model.stages;
  const auto counts = count_step(config, mesh);
  TransferTimes out;
  for (size_t s = 0; s < units.size(); ++s) {
    const auto dense = unit_times(units[s].dense, 1, mesh, config, gpu);
    const auto experts = unit_times(units[s].experts, mesh.expert, mesh, config, gpu);
    const auto tied_dense = unit_times(units[s].tied, 1, mesh, config, gpu);
    const auto tied_experts = unit_times(units[s].tied_experts, mesh.expert, mesh, config, gpu);
    const double tied_gather = tied_dense.gather + tied_experts.gather;  // once a step
    const double gather = dense.gather + experts.gather;
    const double reduce = dense.reduce + experts.reduce + tied_dense.reduce + tied_experts.reduce;
    out.forward_gather += static_cast<double>(counts.forward_gathers) * gather;
    if (s + 1 < units.size()) {
      out.forward_gather += static_cast<double>(counts.count_gathers) * gather;
      out.backward_gather += static_cast<double>(counts.backward_gathers) * gather;
    }
    out.reduce += static_cast<double>(counts.reductions) * reduce;
    out.forward_gather += tied_gather;
    out.replicas += dense.replicas + experts.replicas + tied_dense.replicas + tied_experts.replicas;
    if (s == 0) out.first_gather = gather + tied_gather, out.last_reduce = reduce;
  }
  add_exchange(out, config, mesh, tokens, gpu);
  out.matrices = matrix_seconds(model.muon, config, mesh, gpu);
  return out;
}

}  // namespace olmoe
