#include "trainer/config/gpu_limits.h"

#include <algorithm>
#include <limits>

namespace olmoe {
namespace {

/// Rows of a grouped GEMM's operands are a multiple of so many bf16 values, which are 16 bytes (ATen's
/// GroupedMMUtils.h: "strides should be multiple of 16 bytes").
constexpr int64_t kGroupedRow = 8;
/// Groups of one grouped GEMM (GroupMM.cu: "Can't process more than 1024 groups", refused at 1,024).
constexpr int64_t kMostGroups = 1023;
/// Experts whose probabilities a warp holds (kernels/router.cu), and whose counts a block does (kernels/permute.cu).
constexpr int64_t kMostExperts = 1024;
/// Width of a head in FlashAttention (flash_api.cpp).
constexpr int64_t kWidestHead = 256;
/// Blocks of a grid along y and z, where attention has a sequence each.
constexpr int64_t kMostSequences = 65'535;
/// Rows are numbered in 32 bits.
constexpr int64_t kMostRows = std::numeric_limits<int32_t>::max();

class Limits {
 public:
  void require(bool good, std::string problem) {
    if (!good) problems_.push_back(std::move(problem));
  }
  std::vector<std::string> problems() { return std::move(problems_); }

 private:
  std::vector<std::string> problems_;
};

/// ATen's grouped GEMMs compute the experts in bf16; with train.expert_kernels=fused down's forward and dx.
void check_grouped_gemms(Limits& limits, const Config& config) {
  const auto whole_rows = [&](const char* key, int64_t width) {
    limits.require(width % kGroupedRow == 0,
                   fmt::format("model.{}: {} must be a multiple of {} on a GPU in bfloat16: LibTorch's grouped GEMM "
                               "takes rows of whole 16 bytes; make it {}, or use train.compute_dtype=float32",
                               key, width, kGroupedRow, (width / kGroupedRow + 1) * kGroupedRow));
  };
  whole_rows(config.model.latent_dim > 0 ? "latent_dim" : "d_model", config.model.expert_dim());
  for (const int64_t width : config.model.expert_widths())
    whole_rows(config.model.layer_widths.empty() ? "expert_width" : "layer_widths", width);
  const int64_t of_rank = config.model.num_experts / std::max<int64_t>(1, config.parallel.expert);
  limits.require(of_rank <= kMostGroups,
                 fmt::format("model.num_experts: a rank has {} experts, and LibTorch's grouped GEMM in bfloat16 "
                             "takes {} at most on a GPU; raise parallel.expert, or lower model.num_experts",
                             of_rank, kMostGroups));
}

void check_experts(Limits& limits, const Config& config) {
  const auto& model = config.model;
  limits.require(model.num_experts <= kMostExperts,
                 fmt::format("model.num_experts: {} are more than the {} that the router's kernels take on a GPU",
                             model.num_experts, kMostExperts));
  if (config.train.compute_dtype == ComputeDtype::bfloat16) check_grouped_gemms(limits, config);
}

void check_attention(Limits& limits, const Config& config) {
  const int64_t head_dim = config.model.head_dim();
  if (config.train.compute_dtype == ComputeDtype::bfloat16)
    limits.require(head_dim <= kWidestHead,
                   fmt::format("model.num_heads: heads are {} wide (model.d_model / model.num_heads), and "
                               "FlashAttention takes {} at most; raise model.num_heads, or use "
                               "train.compute_dtype=float32",
                               head_dim, kWidestHead));
  const bool fp32 = config.train.compute_dtype == ComputeDtype::float32;
  const std::string_view why =
      "needs train.compute_dtype=bfloat16 on a GPU: attention in float32 there has no mask but "
      "the causal one";
  limits.require(!fp32 || !hides_keys(config), fmt::format("model.attention_windows: a window {}", why));
  limits.require(!fp32 || config.data.document_mask == DocumentMask::none,
                 fmt::format("data.document_mask: {} {}", enum_name(config.data.document_mask), why));
  limits.require(config.train.micro_batch_size <= kMostSequences,
                 fmt::format("train.micro_batch_size: {} is more than the {} sequences that attention takes on a GPU",
                             config.train.micro_batch_size, kMostSequences));
}

void check_rows(Limits& limits, const Config& config) {
  const auto& train = config.train;
  const int64_t sequences = std::min(train.micro_batch_size, train.global_batch_size);
  const int64_t choices = config.model.has_experts() ? config.model.choices() : 1;
  const int64_t most_tokens = kMostRows / choices;
  limits.require(sequences <= most_tokens / config.data.sequence_length,
                 fmt::format("train.micro_batch_size: {} sequences of {} tokens with {} experts each are more than {} "
                             "rows, which a GPU's kernels number in 32 bits; make it smaller",
                             sequences, config.data.sequence_length, choices, kMostRows));
}

}  // namespace

bool hides_keys(const Config& config) {
  return std::ranges::any_of(config.model.blocks(), [&](const BlockSpec& block) {
    return block.attention.window_in(config.data.sequence_length) > 0;
  });
}

std::vector<std::string> gpu_limits(const Config& config) {
  Limits limits;
  if (config.train.device != DeviceKind::cuda) return {};
  if (config.model.has_experts()) check_experts(limits, config);
  check_attention(limits, config);
  check_rows(limits, config);
  return limits.problems();
}

}  // namespace olmoe
