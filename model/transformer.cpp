#include "model/transformer.h"

#include "model/attention.h"
#include "model/head.h"
#include "model/layers.h"
#include "model/moe_layer.h"

namespace olmoe {
namespace {

void append(std::vector<Param>& to, std::vector<Param> more) {
  to.insert(to.end(), std::make_move_iterator(more.begin()), std::make_move_iterator(more.end()));
}

class EmbeddingStage : public Stage {
 public:
  explicit EmbeddingStage(const ModelConfig& config) : config_(config) {}
  std::vector<Param> params() override {
    return {shared_param("embedding.weight", {config_.vocab_size, config_.d_model}, ParamRole::embedding, w_VD_)};
  }
  StageOut forward(const at::Tensor&, StageContext& context) override {
    return {olmoe::embedding(context.batch.ids_BS.flatten(), w_VD_), {}};
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

  std::vector<Param> params() override {
    const auto norm = [&](const char* name, at::Tensor& slot) {
      return shared_param(name_ + name, {config_.d_model}, ParamRole::norm, slot);
    };
    std::vector<Param> out{norm(".attention_norm.weight", attention_norm_D_), norm(".ffn_norm.weight", ffn_norm_D_)};
    append(out, attention_.params());
    append(out, ffn_params());
    return out;
  }

  StageOut forward(const at::Tensor& x_ND, StageContext& context) override {
    const int64_t sequences = context.batch.ids_BS.size(0);
    const auto normed = olmoe::rms_norm(x_ND, attention_norm_D_, config_.norm_eps, context.save_policy);
    const auto attended_ND = attention_.forward(normed, sequences, context.save_policy);
    const auto mid = olmoe::add_rms_norm(attended_ND, x_ND, ffn_norm_D_, config_.norm_eps, context.save_policy);
    return ffn(mid.norm, mid.sum_ND, context);
  }

 protected:
  virtual std::vector<Param> ffn_params() = 0;
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

 protected:
  std::vector<Param> ffn_params() override { return moe_.params(); }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext& context) override {
    return moe_.forward(x, residual_ND, context);
  }

 private:
  MoeLayer moe_;
};

class DenseBlock : public Block {
 public:
  using Block::Block;

 protected:
  std::vector<Param> ffn_params() override {
    const int64_t width = config_.dense_hidden();
    return {shared_param(name_ + ".ffn.gate_up.weight", {2 * width, config_.d_model}, ParamRole::matrix, gate_up_),
            shared_param(name_ + ".ffn.down.weight", {config_.d_model, width}, ParamRole::matrix, down_)};
  }
  StageOut ffn(const Normed& x, const at::Tensor& residual_ND, StageContext&) override {
    return {swiglu_linear(olmoe::linear(x, gate_up_), down_, residual_ND), {}};
  }

 private:
  at::Tensor gate_up_, down_;
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

std::vector<std::vector<Param>> list_params(const ModelConfig& config) {
  const auto alone = make_single_communicator();
  DeviceMesh mesh(*alone, {});
  std::vector<std::vector<Param>> out;
  for (const auto& stage : make_stages(config, mesh)) {
    out.push_back(stage->params());
    for (auto& param : out.back()) param.slot = nullptr;
  }
  return out;
}

}  // namespace olmoe
