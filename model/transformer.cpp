#include "model/transformer.h"

#include "model/attention.h"
#include "model/dense_ffn.h"
#include "model/head.h"
#include "model/layers.h"
#include "model/moe_layer.h"

namespace olmoe {
namespace {

class EmbeddingStage : public Stage {
 public:
  explicit EmbeddingStage(const ModelConfig& config) : config_(config) {}
  StageState state() override {
    return {{shared_param("embedding.weight", {config_.vocab_size, config_.d_model}, ParamRole::embedding, w_VD_)}};
  }
  StageOut forward(const at::Tensor&, StageContext& context) override {
    return {olmoe::embedding(context.batch.ids_BS.flatten(), w_VD_), {}};
  }
  StageCost cost(const CostContext& context) const override {
    const int64_t output = context.tokens() * config_.d_model * context.value_bytes;
    const auto rows = static_cast<double>(output);
    const auto grads = static_cast<double>(context.tokens() * config_.d_model * 2 * context.master_bytes);
    return {.work = {memory_work("embedding", 2 * rows, rows + grads)}, .output = output};
  }

 private:
  const ModelConfig& config_;
  at::Tensor w_VD_;
};

/// x + attention(norm(x)), then x + ffn(norm(x)); a derived class has the feed-forward.
class Block : public Stage {
 public:
  Block(const ModelConfig& config, std::string name, const kernels::AttentionMethod& attention)
      : config_(config), name_(std::move(name)), attention_(config, name_ + ".attention", attention) {}

  StageState state() override {
    const auto norm = [&](const char* name, at::Tensor& slot) {
      return shared_param(name_ + name, {config_.d_model}, ParamRole::norm, slot);
    };
    StageState out{{norm(".attention_norm.weight", attention_norm_D_), norm(".ffn_norm.weight", ffn_norm_D_)}};
    out.add(attention_.state());
    out.add(ffn_state());
    return out;
  }

  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const int64_t sequences = context.batch.ids_BS.size(0);
    const auto normed = olmoe::rms_norm(x_ND, attention_norm_D_, config_.norm_eps, context.save_policy);
    const auto attended_ND = attention_.forward(normed, sequences, context.save_policy);
    const auto mid = olmoe::add_rms_norm(attended_ND, x_ND, ffn_norm_D_, config_.norm_eps, context.save_policy);
    return ffn(mid.norm, mid.sum_ND, context);
  }

  StageCost cost(const CostContext& context) const override {
    const int64_t tokens = context.tokens(), rows = tokens * config_.d_model * context.value_bytes;
    const auto attention = attention_.cost(context);
    const auto [ffn, normed_uses, residual_passes] = ffn_cost(context);
    const auto token_bytes = static_cast<double>(rows);
    // Norms that are not saved are recomputed once for each weight that they are multiplied by.
    const double recomputed = context.save_policy == SavePolicy::selective ? 2 * (1 + normed_uses) : 0;
    StageCost out{.work = {memory_work("norms", 4 * token_bytes, (6 + recomputed) * token_bytes),
                           memory_work("residuals", residual_passes * token_bytes, 4 * token_bytes)},
                  .output = rows,
                  .routing = ffn.routing};
    add_work(out.work, attention.work);
    add_work(out.work, ffn.work);
    // Norms save 1/rms and the normed rows, that of the feed-forward also its input, the sum of attention and residual.
    const int64_t norm = tokens * context.master_bytes + (context.save_policy == SavePolicy::all ? rows : 0);
    const int64_t before_ffn = norm + attention.saved;
    out.saved = before_ffn + rows + norm + ffn.saved;
    // With dy; then also the gradients of the sum and of the residual.
    for (const auto& point : ffn.peaks)
      out.peaks.push_back({point.name, before_ffn + rows + norm + point.saved, rows + point.temporaries});
    for (const auto& point : attention.peaks)
      out.peaks.push_back({point.name, ffn.routing + norm + point.saved, 2 * rows + point.temporaries});
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
  Attention attention_;
  at::Tensor attention_norm_D_, ffn_norm_D_;
};

class MoeBlock : public Block {
 public:
  MoeBlock(const ModelConfig& config, const std::string& name, const kernels::AttentionMethod& attention,
           const ModelRanks& ranks, const MoeOptions& options)
      : Block(config, name, attention), moe_(config, name + ".moe", ranks, options) {}
  int64_t num_experts() const override { return config_.num_experts; }
  bool balances_step() const override { return config_.load_balancing_granularity == BalanceGranularity::step; }
  void end_step(const StepStats& step) override { moe_.end_step(step); }

 protected:
  StageState ffn_state() override { return moe_.state(); }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext& context) override {
    return moe_.forward(x, residual_ND, context);
  }
  /// The residual is added where rows are combined, before that to the output of shared experts. Router and experts use
  /// the normed rows; experts that tokens are dispatched to use received ones, which are saved.
  FfnCost ffn_cost(const CostContext& context) const override {
    const int shared = moe_.shared_uses();
    return {moe_.cost(context), (context.expert_ranks == 1 ? 2 : 1) + shared, shared > 0 ? 5.0 : 2.0};
  }

 private:
  MoeLayer moe_;
};

class DenseBlock : public Block {
 public:
  DenseBlock(const ModelConfig& config, const std::string& name, const kernels::AttentionMethod& attention)
      : Block(config, name, attention), ffn_(config, name + ".ffn", config.dense_hidden()) {}

 protected:
  StageState ffn_state() override { return ffn_.state(); }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext&) override {
    return {ffn_.forward(x, residual_ND), {}};
  }
  FfnCost ffn_cost(const CostContext& context) const override { return {ffn_.cost(context), ffn_.normed_uses(), 5}; }

 private:
  DenseFfn ffn_;
};

}  // namespace

std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config, DeviceMesh& mesh, MoeOptions options,
                                                const kernels::AttentionMethod& attention) {
  const ModelRanks ranks{.experts = std::make_shared<RowExchange>(mesh.expert(), options.device, options.overlap),
                         .data = mesh.world()};
  std::vector<std::unique_ptr<Stage>> stages;
  stages.push_back(std::make_unique<EmbeddingStage>(config));
  const auto blocks = config.blocks();
  for (size_t layer = 0; layer < blocks.size(); ++layer) {
    const auto name = fmt::format("blocks.{}", layer);
    if (blocks[layer].feed_forward.has_experts())
      stages.push_back(std::make_unique<MoeBlock>(config, name, attention, ranks, options));
    else
      stages.push_back(std::make_unique<DenseBlock>(config, name, attention));
  }
  stages.push_back(std::make_unique<Head>(config));
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
