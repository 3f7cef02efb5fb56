// The kernels that the planner knows times of: those that a run has, those it had, and changes that are not built.
#pragma once
#include <optional>
#include <span>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "trainer/planner/grouped_product.h"

namespace olmoe {

/// Whether a run has kernels of a form: it had them once, it has them, they are a proposal, or another program's.
enum class FormState { replaced, built, not_built, peer };

/// What becomes of weight gradients: added to sums, which are cleared before; stored where a pass is the first to make
/// them in a full gradient that ranks share, which is not cleared then; or stored always.
enum class Gradients { added, first_stored, stored };

/// How the experts of a layer are computed.
struct ExpertForm {
  std::string_view name;
  FormState state;
  bool fused;  ///< gathers as it multiplies, makes SwiGLU in epilogues and adds weight gradients in place
  TileKernel up, down, dz, down_grad, up_grad, dx;
  Gradients gradients = Gradients::added;

  /// The kernel of the GEMM that Experts::cost() names. Throws Error for another name.
  const TileKernel& kernel_of(std::string_view gemm) const;
};

/// As they were, and as they are built.
std::span<const ExpertForm> unfused_experts();
/// The fused kernels, each entry with one change more than the one before it; one of them is built.
std::span<const ExpertForm> fused_experts();
/// SonicMoE's kernels, whose published times the constants of all forms were fitted to.
const ExpertForm& sonic_moe_experts();
/// What a run with `train.expert_kernels` has.
const ExpertForm& built_experts(kernels::ExpertKernels experts);

/// 8192 x 8192 x 8192 in a library's kernel with the same tiles: what a GPU is timed with beside the experts.
GroupedProduct large_product();

/// Of attention on a GPU, in bf16: train.attention_kernel, and whether train.deterministic_attention.
enum class AttentionForm { flash_deterministic, flash, cudnn_deterministic, cudnn };
std::string_view name_of(AttentionForm form);
/// What a run with these has.
AttentionForm built_attention(kernels::AttentionKernel kernel, bool deterministic);
bool is_cudnn(AttentionForm form);
bool is_deterministic(AttentionForm form);

/// Of the head: its gradients are made while the logits exist, or logits are computed again in the backward.
enum class HeadForm { logits_once, logits_twice };

/// What is not said by a config; by default as a run has it.
struct KernelForms {
  const ExpertForm* experts = nullptr;          ///< null: those of train.expert_kernels
  std::optional<AttentionForm> attention = {};  ///< none: that of train.attention_kernel
  HeadForm head = HeadForm::logits_once;
};

}  // namespace olmoe
