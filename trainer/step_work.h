// Names of sizes in step_work.cpp: N tokens, R rows (tokens x top-k), D model, F expert width, E experts, V vocabulary.
#pragma once
#include <string_view>
#include <vector>

#include "trainer/config.h"

namespace olmoe {

/// What a piece of work runs on at best: products of one weight, of one weight for each expert, attention's own, or
/// nothing but the bytes that it moves.
enum class Bound { dense_gemm, grouped_gemm, attention, memory };

struct Cost {
  double flops = 0;  ///< executed: what a backward computes again counts again
  double bytes = 0;  ///< read and written in device memory, each once
};

/// One kind of work of the busiest rank, summed over a step.
struct Work {
  std::string_view name;
  Bound bound;
  Cost forward, backward, update;
};

/// Bytes of whole buffers (all ranks' parts together) that one step's collectives go through.
struct StepTransfers {
  double forward_gather = 0;    ///< over shard, under the forward
  double backward_gather = 0;   ///< over shard, under the backward
  double reduce_scatter = 0;    ///< over shard, under the backward
  double replica_reduce = 0;    ///< all_reduce over replicate, of a rank's slices, after the backward
  double first_gather = 0;      ///< of forward_gather: that of the first stage, which nothing runs beside
  double last_reduce = 0;       ///< of reduce_scatter: that of the first stage, the last to finish
};

struct StepWork {
  double tokens;         ///< of the busiest rank
  double global_tokens;  ///< of all ranks
  std::vector<Work> parts;
  StepTransfers transfers;
};

/// Counts the FLOPs, bytes and transfers of one optimizer step on CUDA kernels, from the config alone. The busiest rank
/// is the one with the most micro-batches. Throws ConfigError for expert parallelism, which it does not know.
StepWork count_step_work(const Config& config, MeshShape mesh);

}  // namespace olmoe
