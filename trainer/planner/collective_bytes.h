// Names of sizes: D model width, K experts a token, E experts; P ranks share them.
#pragma once
#include <cstdint>

#include "model/routing.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// How often the units of a stage are gathered and reduced in one optimizer step; equal on all ranks.
struct StepCounts {
  int64_t passes;            ///< accumulation steps; ranks without a micro-batch take part with an empty one
  int64_t counted_passes;    ///< of these, those whose assignments are counted first by a forward without the head
  int64_t forward_gathers;   ///< of each stage, in passes that train
  int64_t count_gathers;     ///< of each stage but the last, in forwards that count
  int64_t backward_gathers;  ///< of each stage but the last, whose weights stay from its forward
  int64_t reductions;        ///< of each stage
};
StepCounts count_step(const Config& config, MeshShape mesh);

/// Bytes that a rank sends in one optimizer step, for each communicator, as Diagnostics::traffic() counts them. Norms,
/// losses and counts of targets and experts are not included: a few hundred bytes.
struct CollectiveBytes {
  int64_t gather_dense = 0;    ///< all_gather over shard
  int64_t gather_experts = 0;  ///< all_gather over expert_shard
  int64_t reduce_dense = 0;    ///< reduce_scatter over shard
  int64_t reduce_experts = 0;  ///< reduce_scatter over expert_shard
  int64_t replicas = 0;        ///< all_reduce over replicate
  int64_t exchange = 0;        ///< all_to_all over expert
  int64_t matrices =
      0;  ///< all_to_all over shard and expert_shard: Muon's, to their homes and back; the most of a rank
  int64_t total() const {
    return gather_dense + gather_experts + reduce_dense + reduce_experts + replicas + exchange + matrices;
  }
};
/// `copies`: counted, or expected; `replica`: the rank's index on the axis replicate.
CollectiveBytes count_collective_bytes(const Config& config, MeshShape mesh, TokenCopies copies, int replica = 0);
/// The same, of several plans on one mesh.
CollectiveBytes count_collective_bytes(const Config& config, const ModelOnMesh& model, TokenCopies copies,
                                       int replica = 0);
/// What `tokens` tokens of a rank, through all blocks, are expected to send and receive.
TokenCopies expected_copies_of_step(const ModelConfig& model, MeshShape mesh, int64_t tokens);

/// Bytes of one value in the compute dtype, the master dtype and the reduce dtype.
int64_t compute_bytes(const Config& config);
int64_t master_bytes(const Config& config);
int64_t reduce_bytes(const Config& config);

}  // namespace olmoe
