#include "model/transformer.h"

#include "model/attention.h"
#include "model/experts.h"
#include "model/head.h"
#include "model/layers.h"
#include "model/router.h"

namespace olmoe {
namespace {

Param dense_param(std::string name, std::vector<int64_t> shape, at::Tensor* slot) {
  return {std::move(name), shape, shape, 0, Axis::shard, slot};
}

void append(std::vector<Param>& to, std::vector<Param> more) {
  to.insert(to.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

class EmbeddingStage : public Stage {
 public:
  explicit EmbeddingStage(const ModelConfig& config) : config_(config) {}
  std::vector<Param> params() override {
    return {dense_param("embedding.weight", {config_.vocab_size, config_.d_model}, &w_VD_)};
  }
  StageOut forward(const at::Tensor&, StageContext& context) override {
    return {olmoe::embedding(context.batch.ids_BS.flatten(), w_VD_), {}, {}};
  }

 private:
  const ModelConfig& config_;
  at::Tensor w_VD_;
};

/// x + attention(norm(x)), then x + ffn(norm(x)); the feed-forward is a subclass's.
class Block : public Stage {
 public:
  Block(const ModelConfig& config, std::string name)
      : config_(config), name_(std::move(name)), attention_(config, name_ + ".attention") {}

  std::vector<Param> params() override {
    std::vector<Param> out{dense_param(name_ + ".attention_norm.weight", {config_.d_model}, &attention_norm_D_),
                           dense_param(name_ + ".ffn_norm.weight", {config_.d_model}, &ffn_norm_D_)};
    append(out, attention_.params());
    append(out, ffn_params());
    return out;
  }

  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const int64_t sequences = context.batch.ids_BS.size(0);
    auto mid_ND = attention_.forward(olmoe::rms_norm(x_ND, attention_norm_D_, config_.norm_eps), x_ND, sequences);
    return ffn(olmoe::rms_norm(mid_ND, ffn_norm_D_, config_.norm_eps), mid_ND, context);
  }

 protected:
  virtual std::vector<Param> ffn_params() = 0;
  virtual StageOut ffn(const at::Tensor& x_ND, const at::Tensor& residual_ND, StageContext& context) = 0;

  const ModelConfig& config_;
  const std::string name_;

 private:
  Attention attention_;
  at::Tensor attention_norm_D_, ffn_norm_D_;
};

class MoeBlock : public Block {
 public:
  MoeBlock(const ModelConfig& config, const std::string& name, kernels::ExpertKernels kernels)
      : Block(config, name), router_(config, name + ".moe.router"), experts_(config, name + ".moe.experts", kernels) {}

 protected:
  std::vector<Param> ffn_params() override {
    auto out = router_.params();
    append(out, experts_.params());
    return out;
  }
  StageOut ffn(const at::Tensor& x_ND, const at::Tensor& residual_ND, StageContext& context) override {
    auto routed = router_.forward(x_ND, context.batch.ids_BS.size(0), context.routing);
    auto y_ND = experts_.forward(x_ND, routed.scores_NK, context.routing.ids_NK, residual_ND);
    return {y_ND, routed.aux, routed.stats};
  }

 private:
  Router router_;
  Experts experts_;
};

class DenseBlock : public Block {
 public:
  using Block::Block;

 protected:
  std::vector<Param> ffn_params() override {
    const int64_t width = config_.dense_hidden();
    return {dense_param(name_ + ".ffn.gate_up.weight", {2 * width, config_.d_model}, &gate_up_),
            dense_param(name_ + ".ffn.down.weight", {config_.d_model, width}, &down_)};
  }
  StageOut ffn(const at::Tensor& x_ND, const at::Tensor& residual_ND, StageContext&) override {
    return {olmoe::linear(swiglu(olmoe::linear(x_ND, gate_up_)), down_, residual_ND), {}, {}};
  }

 private:
  at::Tensor gate_up_, down_;
};

}  // namespace

std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config, kernels::ExpertKernels kernels) {
  std::vector<std::unique_ptr<Stage>> stages;
  stages.push_back(std::make_unique<EmbeddingStage>(config));
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    const auto name = fmt::format("blocks.{}", layer);
    if (config.ffn == Ffn::moe)
      stages.push_back(std::make_unique<MoeBlock>(config, name, kernels));
    else
      stages.push_back(std::make_unique<DenseBlock>(config, name));
  }
  stages.push_back(std::make_unique<Head>(config));
  return stages;
}

}  // namespace olmoe
