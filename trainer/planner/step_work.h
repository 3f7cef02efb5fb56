// Names of sizes in step_work.cpp: N tokens, R rows (tokens x top-k), D model, F expert width, E experts, V vocabulary.
#pragma once
#include <string_view>
#include <vector>

#include "trainer/planner/kernel_forms.h"
#include "trainer/planner/model_on_mesh.h"

namespace olmoe {

/// What a piece of work runs on at best: products of one weight, of one weight for each expert, attention's own, or
/// nothing but the bytes that it moves.
enum class Bound { dense_gemm, grouped_gemm, attention, memory };

/// Of a kernel that is launched with a block for each of a few heads, and so many times again that every
/// multiprocessor has one: each time adds to a copy of its own.
struct SplitHeads {
  double heads = 0;       ///< of a launch; 0: the kernel is no such one
  double copy_bytes = 0;  ///< of all launches, one copy each
};

struct Cost {
  double flops = 0;                           ///< executed: what a backward computes again counts again
  double bytes = 0;                           ///< read and written in device memory, each once
  std::vector<GroupedProduct> products = {};  ///< of grouped_gemm: what flops and bytes are the sums of
  SplitHeads split = {};

  void add(const Cost& other);
};

/// One kind of work of the busiest rank, summed over a step.
struct Work {
  std::string_view name;
  Bound bound;
  Cost forward, backward, update;
};

struct StepWork {
  double tokens;         ///< of the busiest rank
  double global_tokens;  ///< of all ranks
  AttentionForm attention;
  std::vector<Work> parts;
};

/// Counts the FLOPs and bytes of one optimizer step on CUDA kernels, from the config alone. The busiest rank is the one
/// with the most micro-batches; its experts have as many rows as those of any other.
StepWork count_step_work(const Config& config, const ModelOnMesh& model, const KernelForms& forms = {});

}  // namespace olmoe
