#include "trainer/planner/step_work.h"

#include <algorithm>
#include <utility>

#include "core/integers.h"
#include "model/flops.h"
#include "trainer/planner/collective_bytes.h"

namespace olmoe {
namespace {

constexpr double kCompute = 2, kMaster = 4;  // bytes of a bf16 and of an fp32 value

/// Sizes of a step on one rank, as floating point: they are multiplied beyond 63 bits.
struct Sizes {
  double tokens, passes, layers, width, kv_width, qkv_width, hidden, rows_per_token, experts, vocab;
  double positions;        // of a sequence
  double experts_here;     // of a rank
  double heads;            // of queries
  double heads_at_once;    // of one micro-batch: sequences x query heads
  double ranks_per_token;  // that have experts which it chose; 1 where nothing travels
};

/// Sequences of the rank with the most of them, which is rank 0.
int64_t busiest_sequences(const TrainConfig& train, int64_t ranks) {
  const auto batches = train.batches(ranks);
  const int64_t last = batches.accumulation_steps() - 1;
  return last * batches.micro_batch + batches.sequences_of(/*rank=*/0, last).count;
}

/// All ranks that a token goes to, its own included: with routing that favours no expert, each is as likely.
double ranks_per_token(const ModelConfig& model, int expert_ranks) {
  if (!model.has_experts() || expert_ranks == 1) return 1;
  return expected_copies(model.num_experts, model.top_k, expert_ranks) * expert_ranks / (expert_ranks - 1);
}

Sizes sizes_of(const Config& config, MeshShape mesh) {
  const auto& model = config.model;
  const bool moe = model.has_experts();
  const int64_t ranks = int64_t{mesh.replicate} * mesh.shard;
  const int64_t sequences = busiest_sequences(config.train, ranks);
  const int64_t passes = ceil_div(sequences, config.train.micro_batch_size);
  auto number = [](int64_t n) { return static_cast<double>(n); };
  return {number(sequences * config.data.sequence_length),
          number(passes),
          number(model.num_layers),
          number(model.d_model),
          number(model.kv_width()),
          number(model.qkv_width()),
          number(moe ? model.expert_width : model.dense_hidden()),
          number(moe ? model.top_k : 1),
          number(moe ? model.num_experts : 1),
          number(model.vocab_size),
          number(config.data.sequence_length),
          number(moe ? model.num_experts / mesh.expert : 1),
          number(model.num_heads),
          number(std::min(sequences, config.train.micro_batch_size) * model.num_heads),
          ranks_per_token(model, mesh.expert)};
}

/// Products of `rows` rows with weights of `elements`, `edge` elements of a row in and out: y = x w, then dx and dw.
Work products(std::string_view name, Bound bound, double forward_flops, double rows_x_edge, double elements,
              double grad_bytes) {
  const double one = kCompute * (elements + rows_x_edge);
  return {name,
          bound,
          {forward_flops, one},
          {2 * forward_flops, 2 * one - kCompute * elements + grad_bytes * elements},
          {}};
}

/// What gives tokens back the sum of their rows, and travels for it.
void add_combine(std::vector<Work>& parts, const Sizes& s) {
  const double row = s.tokens * s.layers * s.rows_per_token * s.width * kCompute;
  const double token = s.tokens * s.layers * s.width * kCompute, copies = token * s.ranks_per_token;
  if (s.ranks_per_token == 1) {
    parts.push_back({"combine", Bound::memory, {0, row + 2 * token}, {0, row + token}, {}});
    return;
  }
  parts.push_back({"combine", Bound::memory, {0, row + copies}, {0, row + copies}, {}});
  // A copy for each rank is made, and later their sum; the backward does the same with gradients.
  parts.push_back({"dispatch", Bound::memory, {0, 3 * copies + 2 * token}, {0, 3 * copies + 2 * token}, {}});
}

Cost sum_of(std::vector<GroupedProduct> products) {
  Cost out;
  for (const auto& product : products) {
    out.flops += product.launches * product.flops();
    out.bytes += product.launches * product.bytes;
  }
  out.products = std::move(products);
  return out;
}

/// Products of experts, and unfused what is not in them: gathered rows, SwiGLU, and what adds bf16 weight gradients to
/// the fp32 ones.
void add_experts(std::vector<Work>& parts, const Sizes& s, const ExpertForm& form, double stored) {
  const double launches = s.passes * s.layers, rows = s.tokens * s.layers * s.rows_per_token;
  const ExpertShape shape{.rows = rows / launches,
                          .experts = static_cast<int64_t>(s.experts_here),
                          .d_model = static_cast<int64_t>(s.width),
                          .expert_width = static_cast<int64_t>(s.hidden),
                          .launches = launches,
                          .stored = stored};
  parts.push_back({"experts",
                   Bound::grouped_gemm,
                   sum_of(forward_products(form, shape)),
                   sum_of(backward_products(form, shape)),
                   {}});
  if (!form.fused) {
    const double gated = rows * s.hidden * kCompute, row = rows * s.width * kCompute;
    const double elements = launches * s.experts_here * 3 * s.width * s.hidden;
    parts.push_back({"SwiGLU", Bound::memory, {0, 3 * gated}, {0, 6 * gated}, {}});
    // Forward: rows of x. Backward: rows of x again, and of dy.
    parts.push_back({"permute", Bound::memory, {0, 2 * row}, {0, 4 * row}, {}});
    parts.push_back(
        {"expert gradient sums", Bound::memory, {}, {0, elements * (kCompute + (2 - stored) * kMaster)}, {}});
  }
  add_combine(parts, s);
}

/// Share of passes that store the experts' gradients: the first into each full gradient that ranks share.
double stored_share(const ExpertForm& form, const Config& config, const ModelOnMesh& model) {
  const bool shared =
      std::any_of(model.stages.begin(), model.stages.end(), [](auto& s) { return s.experts.ranks > 1; });
  if (form.gradients != Gradients::first_stored || !shared) return form.gradients == Gradients::stored ? 1 : 0;
  const auto counts = count_step(config, model.mesh);
  return static_cast<double>(counts.reductions) / static_cast<double>(counts.passes);
}

/// The products of a dense feed-forward, which read and write the fp32 gradient in place.
void add_dense(std::vector<Work>& parts, const Sizes& s, double flops) {
  const double elements = s.passes * s.layers * 3 * s.width * s.hidden, rows = s.tokens * s.layers;
  parts.push_back(
      products("feed-forward", Bound::dense_gemm, flops, rows * (2 * s.width + 3 * s.hidden), elements, 2 * kMaster));
  const double gated = rows * s.hidden * kCompute;
  parts.push_back({"SwiGLU", Bound::memory, {0, 3 * gated}, {0, 6 * gated}, {}});
}

/// Scores of the queries with their keys, softmax, and the product with the values.
void add_attention_core(std::vector<Work>& parts, const Sizes& s, double flops, AttentionForm form) {
  const double rows = s.tokens * s.layers, qkvy = rows * (s.qkv_width + s.width) * kCompute;
  // Five products backward for two forward: scores are computed again.
  Work core{"attention core", Bound::attention, {flops, qkvy}, {2.5 * flops, 2 * qkvy}, {}};
  // Sums of dq in fp32: copies are cleared, written and read.
  if (form == AttentionForm::flash_deterministic) core.backward.split = {s.heads_at_once, 3 * rows * s.width * kMaster};
  if (form != AttentionForm::cudnn_deterministic) {
    parts.push_back(core);
    return;
  }
  // The gradients of all scores, in bf16, wait in memory for the last of the five products, which makes dq of them.
  // They are taken to be written and read whole, above the diagonal too.
  const double score_grads = rows * s.heads * s.positions * kCompute,
               dq_and_k = rows * (s.width + s.kv_width) * kCompute;
  core.backward.flops = 2 * flops;
  core.backward.bytes += score_grads;
  parts.push_back(core);
  parts.push_back({"attention's dq", Bound::attention, {}, {0.5 * flops, score_grads + dq_and_k}, {}});
}

/// Everything of attention but the feed-forward of its block.
void add_attention(std::vector<Work>& parts, const Sizes& s, const ForwardFlops& flops, AttentionForm form) {
  const double rows = s.tokens * s.layers;
  parts.push_back(products("projections", Bound::dense_gemm, flops.projections * s.tokens,
                           rows * (3 * s.width + s.qkv_width), s.passes * s.layers * s.width * (s.qkv_width + s.width),
                           2 * kMaster));
  add_attention_core(parts, s, flops.attention * s.tokens, form);
  const double qk = rows * (s.width + s.kv_width) * kCompute;
  parts.push_back({"QK-norm and rotary", Bound::memory, {0, 2 * qk}, {0, 3 * qk}, {}});
}

/// Norms, residuals, router: what passes over [N, D] or [N, E].
void add_rows(std::vector<Work>& parts, const Sizes& s, const ForwardFlops& flops, bool moe) {
  const double token = s.tokens * s.layers * s.width * kCompute;
  const double final_norm = s.tokens * s.width * kCompute;
  parts.push_back({"norms", Bound::memory, {0, 4 * token + 2 * final_norm}, {0, 6 * token + 3 * final_norm}, {}});
  // That of attention is added by the norm behind it, which reads it and writes the sum, and reads the sum's other
  // gradient; a dense feed-forward adds its own (combine does for experts). The input's gradients are added up apart.
  parts.push_back({"residuals", Bound::memory, {0, (moe ? 2 : 5) * token}, {0, 4 * token}, {}});
  if (!moe) return;
  const double logits = s.tokens * s.layers * s.experts, routing_bytes = logits * (kCompute + kMaster);
  parts.push_back(products("router product", Bound::dense_gemm, flops.router * s.tokens,
                           s.tokens * s.layers * s.width + logits, s.passes * s.layers * s.width * s.experts,
                           2 * kMaster));
  parts.push_back({"routing", Bound::memory, {0, routing_bytes}, {0, routing_bytes}, {}});
}

/// Embedding, and the head, whose gradients are made while the logits exist, or from logits that are computed again.
void add_ends(std::vector<Work>& parts, const Sizes& s, const ForwardFlops& flops, HeadForm form) {
  const double rows = s.tokens * s.width, logits = s.tokens * s.vocab * kCompute;
  parts.push_back({"embedding", Bound::memory, {0, 2 * rows * kCompute}, {0, rows * (kCompute + 2 * kMaster)}, {}});
  auto head = products("head", Bound::dense_gemm, flops.head * s.tokens, s.tokens * (s.width + s.vocab),
                       s.passes * s.width * s.vocab, 2 * kMaster);
  Work loss{"cross-entropy", Bound::memory, {0, logits}, {0, logits}, {}};
  if (form == HeadForm::logits_twice) {
    head.backward.add(head.forward);
    loss.backward.bytes += logits;
  }
  parts.push_back(head);
  parts.push_back(loss);
}

/// What is done to weights and gradients, and not to tokens.
void add_state(std::vector<Work>& parts, const Config& config, const ModelOnMesh& model, bool stores_experts) {
  double mine = 0, shared = 0, shared_mine = 0;  // values of a rank; of units that it shares, all and its own
  double cleared = 0;                            // of these, what gradients are added to
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
  }
  const auto counts = count_step(config, model.mesh);
  // fp32: weight and both moments read and written, the gradient read and cleared, and read once for the norm.
  parts.push_back({"AdamW and gradient norm", Bound::memory, {}, {}, {0, mine * (3 * 2 + 2 + 1) * kMaster}});
  const bool in_adamw = config.parallel.zero_stage != 3;  // which writes bf16 weights in the same pass
  const auto passes = static_cast<double>(counts.passes);
  const double cast = in_adamw ? 0 : mine * (kMaster + kCompute) * passes;
  parts.push_back({"casts to bf16", Bound::memory, {0, cast}, {0, cast}, {0, in_adamw ? mine * kCompute : 0}});
  if (shared == 0) return;
  // Full gradients are cleared before a pass, and take the dtype that they travel in; a rank's sum is added to its
  // gradient after it.
  const double rounded = config.parallel.reduce_dtype == ReduceDtype::bfloat16 ? shared * (kMaster + kCompute) : 0;
  const double once = kMaster * (cleared + 3 * shared_mine) + rounded;
  parts.push_back({"gradient buffers", Bound::memory, {}, {0, static_cast<double>(counts.reductions) * once}, {}});
}

void run_again(Work& part) { part.backward.add(part.forward); }

/// A full recompute runs every forward but the head's again before its backward.
void recompute_all(std::vector<Work>& parts) {
  for (auto& part : parts)
    if (part.name != "head" && part.name != "cross-entropy" && part.name != "casts to bf16") run_again(part);
}

/// A selective one the cheap parts: of the norms those of blocks, where router and experts each make theirs.
void recompute_selected(std::vector<Work>& parts, const Sizes& s, bool moe) {
  const double norm = s.tokens * s.layers * 2 * s.width * kCompute;
  for (auto& part : parts) {
    if (part.name == "QK-norm and rotary" || part.name == "router product" || part.name == "routing") run_again(part);
    if (part.name == "norms") part.backward.bytes += (moe ? 3 : 2) * norm;
  }
}

}  // namespace

void Cost::add(const Cost& other) {
  flops += other.flops;
  bytes += other.bytes;
  products.insert(products.end(), other.products.begin(), other.products.end());
}

StepWork count_step_work(const Config& config, const ModelOnMesh& model, const KernelForms& forms) {
  const auto sizes = sizes_of(config, model.mesh);
  const auto flops = count_forward_flops(config.model, config.data.sequence_length);
  const bool moe = config.model.has_experts();
  const auto& experts = forms.experts ? *forms.experts : built_experts(config.train.expert_kernels);
  const auto& train = config.train;
  const auto attention =
      forms.attention.value_or(built_attention(train.attention_kernel, train.deterministic_attention));
  StepWork out{sizes.tokens, static_cast<double>(train.global_batch_size * config.data.sequence_length), attention, {}};
  if (moe)
    add_experts(out.parts, sizes, experts, stored_share(experts, config, model));
  else
    add_dense(out.parts, sizes, flops.ffn * sizes.tokens);
  add_attention(out.parts, sizes, flops, attention);
  add_rows(out.parts, sizes, flops, moe);
  add_ends(out.parts, sizes, flops, forms.head);
  if (config.train.recompute == Recompute::full) recompute_all(out.parts);
  if (config.train.recompute == Recompute::selective) recompute_selected(out.parts, sizes, moe);
  add_state(out.parts, config, model, moe && experts.gradients != Gradients::added);
  return out;
}

}  // namespace olmoe
