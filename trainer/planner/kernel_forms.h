// Kernels whose time the planner predicts: those of a run, replaced ones, and changes that are not built.
#pragma once
#include <optional>
#include <span>
#include <string_view>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "trainer/planner/grouped_product.h"

namespace olmoe {

/// Whether a run has kernels of a form: they are replaced, built, a proposal, or another program's.
enum class FormState { replaced, built, not_built, peer };

/// How weight gradients are written: added to sums, which are zeroed before; stored by the first micro-batch in a
/// pooled full gradient, which is not zeroed, and added by others; or always stored.
enum class Gradients { added, first_stored, stored };

/// How the experts of a layer are computed.
struct ExpertForm {
  std::string_view name;
  FormState state;
  bool fused;  ///< gathers in the main loop, computes SwiGLU in epilogues and adds weight gradients in place
  TileKernel up, down, dz, down_grad, up_grad, dx;
  Gradients gradients = Gradients::added;

  /// The kernel of the GEMM that Experts::cost() names. Throws Error for another name.
  const TileKernel& kernel_of(std::string_view gemm) const;
};

/// Replaced ones and those that are built.
std::span<const ExpertForm> unfused_experts();
/// The fused kernels; each entry has one more change than the one before it, and one is built.
std::span<const ExpertForm> fused_experts();
/// SonicMoE's kernels, whose published times the constants of all forms were fitted to.
const ExpertForm& sonic_moe_experts();
/// Those of a run with `train.expert_kernels`.
const ExpertForm& built_experts(kernels::ExpertKernels experts);

/// A GEMM of 8192 x 8192 x 8192 in a library's kernel with the same tiles, which benchmarks time along with the
/// experts.
GroupedProduct large_product();

/// Attention on a GPU in bf16: train.attention_kernel, and whether train.deterministic_attention.
enum class AttentionForm { flash_deterministic, flash, cudnn_deterministic, cudnn };
std::string_view name_of(AttentionForm form);
/// That of a run with these.
AttentionForm built_attention(kernels::AttentionKernel kernel, bool deterministic);
bool is_cudnn(AttentionForm form);
bool is_deterministic(AttentionForm form);

/// The head: its gradients are computed while the logits exist, or logits are recomputed in the backward.
enum class HeadForm { logits_once, logits_twice };

/// Kernels that a config does not choose; by default those of a run.
struct KernelForms {
  const ExpertForm* experts = nullptr;          ///< null: those of train.expert_kernels
  std::optional<AttentionForm> attention = {};  ///< none: that of train.attention_kernel
  HeadForm head = HeadForm::logits_once;
};

}  // namespace olmoe
