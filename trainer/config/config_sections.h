#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "data/batch_plan.h"
#include "trainer/config/checkpoint_config.h"
#include "trainer/config/config_choices.h"
#include "trainer/config/evaluation_config.h"
#include "trainer/config/optimizer_config.h"

/// The trainer's sections of a run's config; those of the model and the data are in their rooms.
namespace olmoe {

inline constexpr int64_t kAnyInteger = std::numeric_limits<int64_t>::max();

struct RunConfig {
  std::string folder;
  int64_t seed = 6198;
  int64_t threads = 0;
  int64_t hang_timeout_s = 1800;

  template <class V>
  void fields(V& v) {
    v.required("folder", folder, "run folder: resolved config, metrics and checkpoints; a run found there is resumed");
    v("seed", seed, {0, kAnyInteger}, "seed of the initial weights and the data order");
    v("threads", threads, {0, 1024}, "CPU threads of a rank; 0: OMP_NUM_THREADS, else cores / ranks of the node")
        .per_host();
    v("hang_timeout_s", hang_timeout_s, {0},
      "end a hung run with exit code 71: no collective call began or returned for this long; must be longer than a "
      "save; 0: never");
  }
};

struct TrainConfig {
  int64_t steps = 0;
  ComputeDtype compute_dtype = ComputeDtype::bfloat16;
  DeviceKind device = DeviceKind::cpu;
  int64_t micro_batch_size = 4;
  int64_t global_batch_size = 1024;
  std::vector<BatchPhase> batch_size_warmup;
  Recompute recompute = Recompute::none;
  bool cuda_graph = false;
  kernels::ExpertKernels expert_kernels = kernels::ExpertKernels::unfused;
  kernels::AttentionKernel attention_kernel = kernels::AttentionKernel::flash;
  bool deterministic_attention = true;
  std::string init_from;
  InitOptimizer init_optimizer = InitOptimizer::reset;
  InitProgress init_progress = InitProgress::restart;
  std::string replay_routing;

  BatchSizes batch_sizes() const { return {global_batch_size, batch_size_warmup}; }
  /// The micro-batches of a step after train.batch_size_warmup, or of step `step`, on `ranks` ranks.
  BatchPlan batches(int64_t ranks) const { return {global_batch_size, micro_batch_size, ranks}; }
  BatchPlan batches(int64_t ranks, int64_t step) const {
    return {batch_sizes().of_step(step), micro_batch_size, ranks};
  }

  template <class V>
  void fields(V& v) {
    v.required("steps", steps, {1, kMostSteps}, "optimizer steps of the whole run");
    v("compute_dtype", compute_dtype,
      "dtype of gathered weights and activations; master weights are fp32, or float64 in a float64 run");
    v("device", device, "where tensors live");
    v("micro_batch_size", micro_batch_size, {1},
      "sequences of a micro-batch: one forward and backward of one rank; more per step are gradient accumulation");
    v("global_batch_size", global_batch_size, {1}, "sequences of one optimizer step, all ranks together");
    v("batch_size_warmup", batch_size_warmup,
      "smaller batches of the first steps: phases in order, each up to a step, before train.global_batch_size; a run "
      "that resumes must have those that it began with");
    v("recompute", recompute,
      "activation checkpointing; selective: recompute norms, rotary embedding and router probabilities in the "
      "backward; "
      "full: save only each stage's input and routing");
    v("cuda_graph", cuda_graph,
      "on GPUs over NCCL, capture the third step as one CUDA graph and replay it from then on");
    v("expert_kernels", expert_kernels,
      "fused: gather and SwiGLU inside the grouped GEMMs; for bfloat16 on GPUs of compute capability 9.0; no effect in "
      "a dense model");
    v("attention_kernel", attention_kernel,
      "flash: FlashAttention-2, on GPUs only in bfloat16 (other dtypes use ATen's other attention); cudnn: cuDNN's, "
      "for "
      "bfloat16 on GPUs of compute capability 9.0");
    v("deterministic_attention", deterministic_attention,
      "the same bits in every run; false lets the backward in bfloat16 on GPUs sum in any order, in less time and "
      "memory");
    v("init_from", init_from,
      "initial weights: a Hugging Face folder, or a step's folder of another run; empty: random");
    v("init_optimizer", init_optimizer,
      "keep: AdamW's moments, and their step for its bias correction, are those of the step's folder in init_from");
    v("init_progress", init_progress,
      "continue: step, tokens and position in the data begin where the step's folder in init_from ends, whose model, "
      "seed, batch and data must be the same; restart: they begin at 0");
    v("replay_routing", replay_routing,
      "routing record, as olmoe-analyze --record writes it, whose experts the layers take in place of their own "
      "choice: "
      "it has every sequence of the training data; empty: they choose");
  }
};

struct ParallelConfig {
  int64_t replicate = 1;
  int64_t shard = 0;
  int64_t expert = 1;
  int64_t expert_chunks = 1;
  int64_t zero_stage = 3;
  ReduceDtype reduce_dtype = ReduceDtype::master;
  bool overlap = true;
  Transport transport = Transport::nccl;
  bool registered_memory = false;

  template <class V>
  void fields(V& v) {
    v("replicate", replicate, {1}, "copies of the sharded model (hybrid sharding)");
    v("shard", shard, {0}, "ranks that share one copy of the trained state; 0: all that replicate leaves");
    v("expert", expert, {1},
      "ranks that share the experts of a layer; tokens are dispatched to them. Divides shard and num_experts");
    v("expert_chunks", expert_chunks, {1, 1024},
      "chunks of a micro-batch's tokens: one is exchanged while another is computed; 1: all at once; "
      "no effect with expert: 1");
    v("zero_stage", zero_stage, {1, 3},
      "ZeRO stage: 3 shards weights, gradients and optimizer state; 2 keeps full weights; 1 also keeps full gradients, "
      "and reduces them once a step");
    v.renamed("gradient_wire", "reduce_dtype");
    v("reduce_dtype", reduce_dtype,
      "dtype in which gradients are sent in a reduce-scatter; master: that of the master weights, in which they are "
      "always summed");
    v("overlap", overlap,
      "on GPUs, gather the next stage and reduce the previous one on side streams while a stage computes");
    v("registered_memory", registered_memory, "register gathered weights and full gradients with NCCL");
    v("transport", transport, "between GPUs; host: through host memory, which is slow, but ranks may share a GPU");
  }
};

struct LogConfig {
  int64_t every_steps = 10;
  bool host_syncs = false;
  int64_t dead_expert_steps = 100;
  int64_t routing_every_steps = 0;

  template <class V>
  void fields(V& v) {
    v("every_steps", every_steps, {1}, "steps between console lines (metrics.jsonl has every step)");
    v("dead_expert_steps", dead_expert_steps, {1}, "steps without a token after which an expert counts as dead");
    v("routing_every_steps", routing_every_steps, {0},
      "steps between those whose assignments metrics.jsonl has in full, of each rank's tokens to each expert; 0: "
      "never");
    v("host_syncs", host_syncs, "on GPUs, count LibTorch's host syncs within a step in metrics.jsonl");
  }
};

}  // namespace olmoe
