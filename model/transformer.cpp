#include "model/transformer.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include "model/attention.h"
#include "model/dense_ffn.h"
#include "model/head.h"
#include "model/layers.h"
#include "model/moe_layer.h"

namespace olmoe {
namespace {

class EmbeddingStage : public Stage {
 public:
  /// `weight`: its slot, which a tied head has too.
  EmbeddingStage(const ModelConfig& config, std::shared_ptr<at::Tensor> weight)
      : config_(config), weight_VD_(std::move(weight)) {
    if (config.embedding_norm) norm_.emplace(config, "embedding_norm");
  }
  StageState state() override {
    auto weight =
        shared_param("embedding.weight", {config_.vocab_size, config_.d_model}, ParamRole::embedding, *weight_VD_);
    if (config_.tie_embeddings) weight.later_users = {static_cast<size_t>(config_.num_layers) + 1};  // the head
    StageState out{{std::move(weight)}};
    if (norm_) out.add(norm_->state());
    return out;
  }
  StageOut forward(const at::Tensor&, StageContext& context) override {
    auto x_ND = olmoe::embedding(context.batch.ids_BS.flatten(), *weight_VD_);
    if (config_.embedding_scale != 1) x_ND = x_ND * config_.embedding_scale;
    return {norm_ ? norm_->forward(x_ND, SavePolicy::all).y_ND : x_ND, {}};
  }
  StageCost cost(const CostContext& context) const override {
    const int64_t output = context.tokens() * config_.d_model * context.value_bytes;
    const auto rows = static_cast<double>(output);
    const auto grads = static_cast<double>(context.tokens() * config_.d_model * 2 * context.master_bytes);
    StageCost out{.work = {memory_work("embedding", 2 * rows, rows + grads)}, .output = output};
    if (config_.embedding_scale != 1) add_work(out.work, {memory_work("embedding", 2 * rows, 2 * rows)});
    if (!norm_) return out;
    add_work(out.work, {norm_->work(context, 0)});
    out.saved = output + norm_->statistics_bytes(context);  // its input
    out.peaks = {{"backward of the embedding's norm", out.saved, output + norm_->backward_bytes(context)}};
    return out;
  }

 private:
  const ModelConfig& config_;
  std::shared_ptr<at::Tensor> weight_VD_;
  std::optional<Norm> norm_;
};

/// h = x + post(attention(pre(x))), then h + post(ffn(pre(h))), each norm where model.norm_position has one; a derived
/// class has the feed-forward.
class Block : public Stage {
 public:
  Block(const ModelConfig& config, std::string name, const AttentionOptions& attention)
      : config_(config), name_(std::move(name)), attention_(config, name_ + ".attention", attention) {
    if (config.has_pre_norms()) pre_.emplace(Norms{{config, name_ + ".attention_norm"}, {config, name_ + ".ffn_norm"}});
    if (config.has_post_norms())
      post_.emplace(Norms{{config, name_ + ".attention_post_norm"}, {config, name_ + ".ffn_post_norm"}});
  }

  StageState state() override {
    StageState out;
    for (auto* norms : {&pre_, &post_}) {
      if (!*norms) continue;
      out.add((*norms)->attention.state());
      out.add((*norms)->ffn.state());
    }
    out.add(attention_.state());
    out.add(ffn_state());
    return out;
  }

  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const auto policy = context.save_policy;
    const auto normed = pre_ ? pre_->attention.forward(x_ND, policy) : unnormed(x_ND);
    auto attended_ND =
        context.cached ? attention_.extend(normed, *context.cached) : attention_.forward(normed, context.batch, policy);
    if (post_) attended_ND = post_->attention.forward(attended_ND, SavePolicy::all).y_ND;
    const auto mid = pre_ ? pre_->ffn.add(attended_ND, x_ND, policy) : unnormed_sum(attended_ND, x_ND);
    if (!post_) return ffn(mid.norm, mid.sum_ND, context);
    auto out = ffn(mid.norm, at::zeros_like(mid.sum_ND), context);  // its output is normed before it is added
    out.y = post_->ffn.forward(out.y, SavePolicy::all).y_ND.add_(mid.sum_ND);
    return out;
  }

  StageCost cost(const CostContext& context) const override {
    const int64_t rows = context.tokens() * config_.d_model * context.value_bytes;
    const auto attention = attention_.cost(context);
    const auto ffn = ffn_cost(context);
    StageCost out{.work = norm_work(context, ffn), .output = rows, .routing = ffn.layer.routing};
    add_work(out.work, attention.work);
    add_work(out.work, ffn.layer.work);
    // A norm before a branch saves 1/rms and the normed rows, that of the feed-forward also its input, the sum of
    // attention and residual; one after a branch its input.
    const int64_t pre = pre_ ? pre_->ffn.saved_bytes(context) : 0;
    const int64_t post = post_ ? rows + post_->ffn.statistics_bytes(context) : 0;
    const int64_t before_ffn = pre + attention.saved + post + rows + pre;
    out.saved = before_ffn + ffn.layer.saved + post;
    // With dy; then also the gradients of the sum and of the residual. A norm after a branch makes another one.
    const int64_t of_branch = post_ ? rows : 0;
    for (const auto& point : ffn.layer.peaks)
      out.peaks.push_back({point.name, before_ffn + point.saved, rows + of_branch + point.temporaries});
    for (const auto& point : attention.peaks)
      out.peaks.push_back(
          {point.name, ffn.layer.routing + pre + point.saved, 2 * rows + of_branch + point.temporaries});
    if (post_) out.peaks.push_back({"backward of the last norm", out.saved, rows + post_->ffn.backward_bytes(context)});
    if (pre_ && pre_->ffn.is_composed())
      out.peaks.push_back(
          {"backward of the last norm", before_ffn + ffn.layer.routing, 2 * rows + pre_->ffn.backward_bytes(context)});
    return out;
  }

 protected:
  struct FfnCost {
    StageCost layer;
    int normed_uses;         ///< weights that the normed rows are multiplied by
    double residual_passes;  ///< over [N, D] of a forward, to add both residuals
  };
  virtual FfnCost ffn_cost(const CostContext& context) const = 0;
  virtual StageState ffn_state() = 0;
  virtual StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext& context) = 0;

  const ModelConfig& config_;
  const std::string name_;

 private:
  /// Those before, or after, the two branches.
  struct Norms {
    Norm attention, ffn;
  };
  static NormedSum unnormed_sum(at::Tensor x_ND, const at::Tensor& residual_ND) {
    x_ND.add_(residual_ND);
    return {x_ND, unnormed(x_ND)};
  }
  std::vector<Work> norm_work(const CostContext& context, const FfnCost& ffn) const {
    const auto rows = static_cast<double>(context.tokens() * config_.d_model * context.value_bytes);
    std::vector<Work> out{memory_work("residuals", ffn.residual_passes * rows, 4 * rows)};
    if (pre_)
      add_work(out,
               {pre_->attention.work(context, attention_.normed_uses()), pre_->ffn.work(context, ffn.normed_uses)});
    if (!post_) return out;
    // A row of zeros is made and added by the feed-forward; both sums are passes of their own.
    add_work(out, {post_->attention.work(context, 0), post_->ffn.work(context, 0),
                   memory_work("residuals", 7 * rows, 2 * rows)});
    return out;
  }

  Attention attention_;
  std::optional<Norms> pre_, post_;
};

class MoeBlock : public Block {
 public:
  MoeBlock(const ModelConfig& config, const std::string& name, const AttentionOptions& attention,
           const LayerExperts& experts, const ModelRanks& ranks, const MoeOptions& options)
      : Block(config, name, attention), moe_(config, name + ".moe", experts, ranks, options) {}
  const std::shared_ptr<Experts>& experts() const { return moe_.experts(); }
  int64_t num_experts() const override { return config_.num_experts; }
  StepBalance step_balance() const override {
    const bool step = config_.load_balancing_granularity == BalanceGranularity::step;
    if (!step || config_.load_balancing_weight == 0) return StepBalance::none;
    return config_.load_balancing_over_layers ? StepBalance::all_layers : StepBalance::layer;
  }
  void end_step(const StepStats& step) override { moe_.end_step(step); }

 protected:
  StageState ffn_state() override { return moe_.state(); }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext& context) override {
    return moe_.forward(x, residual_ND, context);
  }
  FfnCost ffn_cost(const CostContext& context) const override {
    return {moe_.cost(context), moe_.normed_uses(context.expert_ranks), moe_.residual_passes()};
  }

 private:
  MoeLayer moe_;
};

class DenseBlock : public Block {
 public:
  DenseBlock(const ModelConfig& config, const std::string& name, const AttentionOptions& attention, int64_t hidden)
      : Block(config, name, attention), ffn_(config, name + ".ffn", hidden) {}

 protected:
  StageState ffn_state() override { return ffn_.state(); }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext&) override {
    return {ffn_.forward(x, residual_ND), {}};
  }
  FfnCost ffn_cost(const CostContext& context) const override { return {ffn_.cost(context), ffn_.normed_uses(), 5}; }

 private:
  DenseFfn ffn_;
};

/// Of experts that blocks share: the stages of those blocks, but for the first.
std::vector<size_t> later_users_of_experts(const ModelConfig& config, const std::vector<BlockSpec>& blocks) {
  std::vector<size_t> out;
  for (size_t layer = 0; config.share_experts && layer < blocks.size(); ++layer)
    if (blocks[layer].feed_forward.has_experts()) out.push_back(layer + 1);  // the embedding is stage 0
  if (!out.empty()) out.erase(out.begin());
  return out;
}

}  // namespace

std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config, DeviceMesh& mesh, MoeOptions options,
                                                const kernels::AttentionMethod& method) {
  const ModelRanks ranks{.experts = std::make_shared<RowExchange>(mesh.expert(), options.device, options.overlap),
                         .data = mesh.world()};
  std::vector<std::unique_ptr<Stage>> stages;
  const auto embedding = std::make_shared<at::Tensor>();
  const auto head = config.tie_embeddings ? embedding : std::make_shared<at::Tensor>();
  stages.push_back(std::make_unique<EmbeddingStage>(config, embedding));
  const auto blocks = config.blocks();
  const auto users = later_users_of_experts(config, blocks);
  std::shared_ptr<Experts> shared;
  for (size_t layer = 0; layer < blocks.size(); ++layer) {
    const auto name = fmt::format("blocks.{}", layer);
    const AttentionOptions attention{method, blocks[layer].attention};
    const auto& feed_forward = blocks[layer].feed_forward;
    if (!feed_forward.has_experts()) {
      stages.push_back(std::make_unique<DenseBlock>(config, name, attention, feed_forward.hidden));
      continue;
    }
    const LayerExperts experts{feed_forward.hidden, shared, shared ? std::vector<size_t>{} : users};
    auto block = std::make_unique<MoeBlock>(config, name, attention, experts, ranks, options);
    if (config.share_experts) shared = block->experts();
    stages.push_back(std::move(block));
  }
  stages.push_back(std::make_unique<Head>(config, head));
  return stages;
}

ModelOutline::ModelOutline(const ModelConfig& config)
    : config_(config),
      world_(make_single_communicator()),
      mesh_(std::make_unique<DeviceMesh>(*world_, MeshShape{})),
      stages_(make_stages(config_, *mesh_)) {}

std::vector<std::vector<Param>> ModelOutline::params() const {
  std::vector<std::vector<Param>> out;
  for (const auto& stage : stages_) {
    out.push_back(stage->state().params);
    for (auto& param : out.back()) param.slot = nullptr;
  }
  return out;
}

std::vector<std::vector<Param>> list_params(const ModelConfig& config) { return ModelOutline(config).params(); }

}  // namespace olmoe
