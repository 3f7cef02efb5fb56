#include "trainer/planner/step_work.h"

#include <algorithm>

#include "core/integers.h"
#include "trainer/planner/activation_plan.h"
#include "trainer/planner/collective_bytes.h"

namespace olmoe {
namespace {

constexpr double kValue = 2, kGrad = 4;  // bytes of a bf16 and of an fp32 value

/// Sequences of the rank with the most of them, which is rank 0.
int64_t busiest_sequences(const TrainConfig& train, int64_t ranks) {
  const auto batches = train.batches(ranks);
  const int64_t last = batches.accumulation_steps() - 1;
  return last * batches.micro_batch + batches.sequences_of(/*rank=*/0, last).count;
}

/// Share of passes that store the experts' gradients: the first into each full gradient that ranks share. Of blocks
/// that share experts the last one is it.
double stored_share(const ExpertForm& form, const Config& config, const ModelOnMesh& model) {
  const bool shared =
      std::any_of(model.stages.begin(), model.stages.end(), [](auto& s) { return s.experts.ranks > 1; });
  if (form.gradients != Gradients::first_stored || !shared) return form.gradients == Gradients::stored ? 1 : 0;
  const auto counts = count_step(config, model.mesh);
  const int64_t users = config.model.share_experts ? config.model.num_moe_layers() : 1;
  return static_cast<double>(counts.reductions) / static_cast<double>(counts.passes * users);
}

/// Adds `micro_batches` micro-batches. Full activation checkpointing runs the forward of every stage but the last
/// again.
void add_micro_batches(std::vector<Work>& parts, const ModelOnMesh& model, const CostContext& context,
                       double micro_batches, bool recomputes) {
  const auto& stages = model.outline->stages();
  for (size_t s = 0; s < stages.size(); ++s) {
    auto cost = stages[s]->cost(context);
    for (auto& part : cost.work) {
      if (recomputes && s + 1 < stages.size()) part.backward.add(part.forward);
      part.forward.scale(micro_batches);
      part.backward.scale(micro_batches);
    }
    add_work(parts, cost.work);
  }
}

/// Adds the forward of `micro_batches` micro-batches through all stages but the last, which counts the assignments of a
/// step before it.
void add_count(std::vector<Work>& parts, const ModelOnMesh& model, const CostContext& context, double micro_batches) {
  const auto& stages = model.outline->stages();
  for (size_t s = 0; s + 1 < stages.size(); ++s) {
    auto cost = stages[s]->cost(context);
    for (auto& part : cost.work) {
      part.forward.scale(micro_batches);
      part.backward = {};
    }
    add_work(parts, cost.work);
  }
}

/// The logits of the head are computed again in the backward.
void compute_logits_twice(std::vector<Work>& parts) {
  for (auto& part : parts)
    if (part.name == "head" || part.name == "cross-entropy") part.backward.add(part.forward);
}

/// One operation after the other, each over all elements: of fp32 the norm reads 1 and the gradient's product with the
/// clipping factor, its guard and the zeroing pass 5, the momentum 5, the average of both 5, the weights 8; of bf16 one
/// is written, one read, and four are copied to and from matrices.
void add_muon(std::vector<Work>& parts, const MuonPlan& muon, double mine) {
  const auto homed = static_cast<double>(muon.dense.homed + muon.experts.homed);
  parts.push_back({"Newton-Schulz", Bound::dense_gemm, {}, {}, {muon.flops, muon.passed * kValue}});
  parts.push_back(
      {"Muon's momentum", Bound::memory, {}, {}, {0, mine * (24 * kGrad + 2 * kValue) + homed * 4 * kValue}});
}

/// What is done to weights and gradients, and not to tokens.
void add_state(std::vector<Work>& parts, const Config& config, const ModelOnMesh& model, bool stores_experts) {
  double mine = 0, shared = 0, shared_mine = 0;  // values of a rank; of units that it shares, all and its own
  double cleared = 0;                            // of these, what gradients are added to
  double tied = 0;                               // of a rank, in buffers of their own
  const auto add_unit = [&](const UnitSize& unit, bool adds) {
    mine += static_cast<double>(unit.slice());
    if (unit.ranks == 1) return;
    shared += static_cast<double>(unit.numel);
    shared_mine += static_cast<double>(unit.slice());
    if (adds) cleared += static_cast<double>(unit.numel);
  };
  for (const auto& stage : model.stages) {
    add_unit(stage.dense, true);
    add_unit(stage.experts, !stores_experts);
    add_unit(stage.tied, true);
    add_unit(stage.tied_experts, !stores_experts);
    tied += static_cast<double>(stage.tied.slice() + stage.tied_experts.slice());
  }
  const auto counts = count_step(config, model.mesh);
  // fp32: weight and both moments read and written, the gradient read and cleared, and read once for the norm. Of what
  // is frozen the gradient is cleared alone.
  const auto trained = static_cast<double>(model.trained.adamw), by_muon = static_cast<double>(model.trained.muon);
  const double updated = trained * (3 * 2 + 2 + 1) + (mine - trained - by_muon);
  parts.push_back({"AdamW and gradient norm", Bound::memory, {}, {}, {0, updated * kGrad}});
  if (by_muon > 0) add_muon(parts, model.muon, by_muon);
  const bool in_adamw = config.parallel.zero_stage != 3;  // which writes bf16 weights in the same pass
  const auto passes = static_cast<double>(counts.passes);
  const double cast = in_adamw ? 0 : (mine - tied) * (kGrad + kValue) * passes;
  parts.push_back({"casts to bf16",
                   Bound::memory,
                   {0, cast},
                   {0, cast},
                   {0, in_adamw ? (trained + by_muon) * kValue + by_muon * kGrad : tied * kValue}});
  if (shared == 0) return;
  // Full gradients are cleared before a pass, and take the dtype that they travel in; a rank's sum is added to its
  // gradient after it.
  const double rounded = config.parallel.reduce_dtype == ReduceDtype::bfloat16 ? shared * (kGrad + kValue) : 0;
  const double once = kGrad * (cleared + 3 * shared_mine) + rounded;
  parts.push_back({"gradient buffers", Bound::memory, {}, {0, static_cast<double>(counts.reductions) * once}, {}});
}

}  // namespace

StepWork count_step_work(const Config& config, const ModelOnMesh& model, const KernelForms& forms) {
  const auto& train = config.train;
  const auto& mesh = model.mesh;
  const auto& experts = forms.experts ? *forms.experts : built_experts(train.expert_kernels);
  const auto attention =
      forms.attention.value_or(built_attention(train.attention_kernel, train.deterministic_attention));
  const int64_t sequences = busiest_sequences(train, int64_t{mesh.replicate} * mesh.shard);
  StepWork out{static_cast<double>(sequences * config.data.sequence_length),
               static_cast<double>(train.global_batch_size * config.data.sequence_length),
               {attention, &experts},
               {}};
  const auto add = [&](int64_t of_micro_batch, int64_t micro_batches) {
    if (micro_batches == 0 || of_micro_batch == 0) return;
    auto context = cost_context(config, mesh, of_micro_batch, kUsualMultiprocessors);
    context.expert_kernels = experts.fused ? kernels::ExpertKernels::fused : kernels::ExpertKernels::unfused;
    context.stored_share = stored_share(experts, config, model);
    context.attention_kernel = is_cudnn(attention) ? kernels::AttentionKernel::cudnn : kernels::AttentionKernel::flash;
    context.deterministic_attention = is_deterministic(attention);
    const auto times = static_cast<double>(micro_batches);
    add_micro_batches(out.parts, model, context, times, train.recompute == Recompute::full);
    if (count_step(config, mesh).counted_passes > 0) add_count(out.parts, model, context, times);
  };
  add(train.micro_batch_size, sequences / train.micro_batch_size);
  add(sequences % train.micro_batch_size, 1);
  if (forms.head == HeadForm::logits_twice) compute_logits_twice(out.parts);
  add_state(out.parts, config, model, config.model.has_experts() && experts.gradients != Gradients::added);
  return out;
}

}  // namespace olmoe
