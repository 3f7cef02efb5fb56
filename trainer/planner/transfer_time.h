#pragma once
#include "trainer/device/gpu_specs.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// Ranks first, first + stride, ..., with the same number of them on each node of kGpusPerNode neighbours.
struct RankGroup {
  int size, stride;
  int per_node() const;
  int nodes() const { return (size + per_node() - 1) / per_node(); }
};

/// An all-gather or reduce-scatter of `bytes` in total, over a ring.
double gather_seconds(double bytes, RankGroup group, const GpuSpecs& gpu);
/// An all-to-all in which each rank sends `bytes`, divided equally over the others.
double exchange_seconds(double bytes, RankGroup group, const GpuSpecs& gpu);

/// Seconds of one step's collectives, run one after the other, by phase. See docs/parallelism.md.
struct TransferTimes {
  double forward_gather = 0;   ///< of weights, during forwards
  double backward_gather = 0;  ///< during backwards
  double reduce = 0;           ///< of gradients, during backwards
  double replicas = 0;         ///< after the last backward
  double first_gather = 0;     ///< part of forward_gather: one gather of the first stage, which nothing overlaps
  double last_reduce = 0;      ///< part of reduce: one reduction of the first stage, the last to finish
  double forward_exchange = 0, backward_exchange = 0;  ///< dispatch and combine
  double matrices = 0;                                 ///< Muon's, to their homes and back, which nothing overlaps
  double total() const {
    return forward_gather + backward_gather + reduce + replicas + forward_exchange + backward_exchange + matrices;
  }
};
/// `tokens`: of a rank in one step, with balanced routing.
TransferTimes predict_transfers(const Config& config, const ModelOnMesh& model, double tokens, const GpuSpecs& gpu);

}  // namespace olmoe
