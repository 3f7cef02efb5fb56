// What stages state of their own cost, beside their forward: arithmetic and bytes for the prediction of a step's time,
// and bytes of activations for the memory plan. Shapes: N tokens of a micro-batch on a rank, D model width, E experts,
// K experts a token, P ranks that share the experts of a layer.
#pragma once
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "model/config.h"

namespace olmoe {

/// Which activations a stage saves for its backward: all, or (selective activation checkpointing) without norms,
/// rotated queries and keys and router probabilities, which the backward recomputes by the same kernels.
enum class SavePolicy { all, selective };

/// One micro-batch on one rank, and all else that its cost depends on but the model. Routing is taken to be in balance:
/// every set of K experts is as likely for a token. A capacity factor is not looked at: no assignment is dropped.
struct CostContext {
  int64_t sequences, positions;  ///< N = sequences x positions
  int multiprocessors;           ///< of the GPU
  int64_t value_bytes = 2;       ///< of a value in the compute dtype
  int64_t master_bytes = 4;      ///< of a statistic or a gradient of weights: at least fp32
  SavePolicy save_policy = SavePolicy::all;
  bool on_gpu = true;
  int expert_ranks = 1;       ///< P
  int64_t expert_chunks = 1;  ///< parts of a micro-batch that are dispatched one by one where P > 1
  kernels::ExpertKernels expert_kernels = kernels::ExpertKernels::unfused;
  double stored_share = 0;  ///< of micro-batches, those that store the experts' weight gradients; others add
  kernels::AttentionKernel attention_kernel = kernels::AttentionKernel::flash;
  bool deterministic_attention = true;
  bool documents = false;  ///< attention stays within them; each sequence is taken to be one, the most work

  int64_t tokens() const { return sequences * positions; }
  /// Tokens that the experts of this rank are expected to see: received ones where P > 1, else its own.
  int64_t expert_tokens(const ModelConfig& model) const;
  /// Assignments of all tokens to experts: N K; where experts choose, those of whole tokens for each.
  int64_t routed_rows(const ModelConfig& model) const;
  bool fused_experts() const { return expert_kernels == kernels::ExpertKernels::fused; }
};

/// What work runs on at best: GEMMs of one weight, of one weight for each expert, attention's own, or nothing but the
/// bytes that it moves.
enum class Bound { dense_gemm, grouped_gemm, attention, memory };

/// One grouped GEMM: every expert's rows by its weight. Of m and k the one that is the rows of an expert is 0.
struct GroupedGemm {
  std::string_view name;
  double rows;  ///< of all experts
  int64_t experts;
  int64_t m, n, k;
  double bytes;  ///< read and written in device memory by one launch
  double launches = 1;

  /// Of one launch.
  double flops() const { return 2 * rows * static_cast<double>(n) * static_cast<double>(m > 0 ? m : k); }
};

/// Of a kernel that is launched with one block for each of a few heads, and again with copies of its sums until every
/// multiprocessor has a block.
struct SplitHeads {
  double heads = 0;       ///< of a launch; 0: the kernel is no such one
  double copy_bytes = 0;  ///< of all launches, one copy each
};

struct Cost {
  double flops = 0;                     ///< executed: what a backward recomputes counts again
  double bytes = 0;                     ///< read and written in device memory, each once
  std::vector<GroupedGemm> gemms = {};  ///< of Bound::grouped_gemm: what flops and bytes are the sums of
  SplitHeads split = {};

  void add(const Cost& other);
  void scale(double times);
};
/// Of these GEMMs.
Cost cost_of(std::vector<GroupedGemm> gemms);

/// One kind of work by name.
struct Work {
  std::string_view name;
  Bound bound;
  Cost forward, backward;
  Cost update = {};  ///< of the optimizer: no stage has any
};
/// y = x w^T, then dx and dw, of a weight of `elements`, whose gradient is added in the master dtype; `row_elements`
/// are those of all rows of x and y.
Work linear_work(std::string_view name, double flops, double row_elements, double elements, const CostContext& context);
/// Work that moves bytes.
Work memory_work(std::string_view name, double forward_bytes, double backward_bytes);

/// Activations in bytes at one point of the backward.
struct PeakPoint {
  std::string_view name;
  int64_t saved;        ///< by this stage, what later parts of its backward read; its input is not counted
  int64_t temporaries;  ///< what is allocated and freed again, the gradient of the output included
};

/// A stage, or a layer within one, for a micro-batch. Bytes are those of activations.
struct StageCost {
  std::vector<Work> work = {};
  int64_t output = 0;   ///< of y, the next stage's input; a layer leaves it at 0
  int64_t saved = 0;    ///< for the backward, but for input and output: whoever made them saves them
  int64_t routing = 0;  ///< of `saved`, what full activation checkpointing saves too
  std::vector<PeakPoint> peaks = {};
};

/// Ranks other than its own that a token is sent to: (P - 1) (1 - C(E - E/P, K) / C(E, K)).
double expected_copies(int64_t num_experts, int64_t top_k, int64_t expert_ranks);
/// All ranks whose experts a token goes to, its own included; 1 where P is 1.
double expected_ranks(int64_t num_experts, int64_t top_k, int64_t expert_ranks);
/// Of a model. Where experts choose, each is taken to choose a token by itself, with probability K / E.
double expected_copies(const ModelConfig& model, int64_t expert_ranks);
double expected_ranks(const ModelConfig& model, int64_t expert_ranks);

/// Adds `more` to `work`, one entry for each name. Throws Error where one name has two bounds.
void add_work(std::vector<Work>& work, const std::vector<Work>& more);

}  // namespace olmoe
