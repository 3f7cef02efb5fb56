#include "trainer/conversion/hf_names.h"

namespace olmoe {
namespace {

/// Appends HF tensors that follow each other in one of our parameters.
class Mapper {
 public:
  void place(const std::string& name, const std::string& hf_name, std::vector<int64_t> shape) {
    if (name != current_) current_ = name, next_ = 0;
    int64_t numel = 1;
    for (auto extent : shape) numel *= extent;
    out_.push_back({hf_name, std::move(shape), name, next_});
    next_ += numel;
  }
  std::vector<HfTensor> take() { return std::move(out_); }

 private:
  std::vector<HfTensor> out_;
  std::string current_;
  int64_t next_ = 0;
};

void place_attention(Mapper& map, const ModelConfig& c, const std::string& block, const std::string& layer) {
  const auto qkv = block + ".attention.qkv.weight";
  map.place(qkv, layer + ".self_attn.q_proj.weight", {c.d_model, c.d_model});
  map.place(qkv, layer + ".self_attn.k_proj.weight", {c.kv_width(), c.d_model});
  map.place(qkv, layer + ".self_attn.v_proj.weight", {c.kv_width(), c.d_model});
  map.place(block + ".attention.output.weight", layer + ".self_attn.o_proj.weight", {c.d_model, c.d_model});
  if (c.qk_norm != QkNorm::full) return;
  map.place(block + ".attention.q_norm.weight", layer + ".self_attn.q_norm.weight", {c.d_model});
  map.place(block + ".attention.k_norm.weight", layer + ".self_attn.k_norm.weight", {c.kv_width()});
}

void place_moe(Mapper& map, const ModelConfig& c, const std::string& block, const std::string& layer) {
  map.place(block + ".moe.router.weight", layer + ".mlp.gate.weight", {c.num_experts, c.d_model});
  auto expert = [&](int64_t e) { return fmt::format("{}.mlp.experts.{}", layer, e); };
  for (int64_t e = 0; e < c.num_experts; ++e) {
    map.place(block + ".moe.experts.gate_up.weight", expert(e) + ".gate_proj.weight", {c.expert_width, c.d_model});
    map.place(block + ".moe.experts.gate_up.weight", expert(e) + ".up_proj.weight", {c.expert_width, c.d_model});
  }
  for (int64_t e = 0; e < c.num_experts; ++e)
    map.place(block + ".moe.experts.down.weight", expert(e) + ".down_proj.weight", {c.d_model, c.expert_width});
}

void place_dense(Mapper& map, const ModelConfig& c, const std::string& block, const std::string& layer) {
  map.place(block + ".ffn.gate_up.weight", layer + ".mlp.gate_proj.weight", {c.dense_hidden(), c.d_model});
  map.place(block + ".ffn.gate_up.weight", layer + ".mlp.up_proj.weight", {c.dense_hidden(), c.d_model});
  map.place(block + ".ffn.down.weight", layer + ".mlp.down_proj.weight", {c.d_model, c.dense_hidden()});
}

}  // namespace

std::vector<HfTensor> hf_tensors(const ModelConfig& config) {
  Mapper map;
  map.place("embedding.weight", "model.embed_tokens.weight", {config.vocab_size, config.d_model});
  const auto blocks = config.blocks();
  for (size_t l = 0; l < blocks.size(); ++l) {
    const auto block = fmt::format("blocks.{}", l), layer = fmt::format("model.layers.{}", l);
    map.place(block + ".attention_norm.weight", layer + ".input_layernorm.weight", {config.d_model});
    map.place(block + ".ffn_norm.weight", layer + ".post_attention_layernorm.weight", {config.d_model});
    place_attention(map, config, block, layer);
    blocks[l].feed_forward.has_experts() ? place_moe(map, config, block, layer)
                                         : place_dense(map, config, block, layer);
  }
  map.place("final_norm.weight", "model.norm.weight", {config.d_model});
  if (!config.tie_embeddings) map.place("head.weight", "lm_head.weight", {config.vocab_size, config.d_model});
  return map.take();
}

}  // namespace olmoe
