#pragma once
#include "trainer/device/gpu_specs.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// Ranks first, first + stride, ...: of a node of kGpusPerNode neighbours, the same number for each node.
struct RankGroup {
  int size, stride;
  int per_node() const;
  int nodes() const { return (size + per_node() - 1) / per_node(); }
};

/// An all-gather or reduce-scatter of `bytes` in whole, over a ring.
double gather_seconds(double bytes, RankGroup group, const GpuSpecs& gpu);
/// An all-to-all in which each rank sends `bytes` to the others, to each as many.
double exchange_seconds(double bytes, RankGroup group, const GpuSpecs& gpu);

/// Seconds that one step's collectives take, one after the other, by when they run. See docs/parallelism.md.
struct TransferTimes {
  double forward_gather = 0;   ///< of weights, under forwards
  double backward_gather = 0;  ///< under backwards
  double reduce = 0;           ///< of gradients, under backwards
  double replicas = 0;         ///< after the last backward
  double first_gather = 0;     ///< of forward_gather: one of the first stage, which nothing runs beside
  double last_reduce = 0;      ///< of reduce: one of the first stage, the last to finish
  double forward_exchange = 0, backward_exchange = 0;  ///< of tokens
  double total() const {
    return forward_gather + backward_gather + reduce + replicas + forward_exchange + backward_exchange;
  }
};
/// `tokens`: of a rank, in one step; with routing that favours no expert.
TransferTimes predict_transfers(const Config& config, const ModelOnMesh& model, double tokens, const GpuSpecs& gpu);

}  // namespace olmoe
