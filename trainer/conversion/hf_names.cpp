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
  void place_buffer(const std::string& name, const std::string& hf_name, std::vector<int64_t> shape) {
    place(name, hf_name, std::move(shape));
    out_.back().buffer = true;
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
  const bool by_head = c.qk_norm == QkNorm::per_head_shared;
  if (c.qk_norm != QkNorm::full && !by_head) return;
  map.place(block + ".attention.q_norm.weight", layer + ".self_attn.q_norm.weight",
            {by_head ? c.head_dim() : c.d_model});
  map.place(block + ".attention.k_norm.weight", layer + ".self_attn.k_norm.weight",
            {by_head ? c.head_dim() : c.kv_width()});
}

void place_norms(Mapper& map, const ModelConfig& c, const std::string& block, const std::string& layer) {
  const std::vector<int64_t> width{c.d_model};
  if (c.norm_position == NormPosition::post) {
    map.place(block + ".attention_post_norm.weight", layer + ".post_attention_layernorm.weight", width);
    map.place(block + ".ffn_post_norm.weight", layer + ".post_feedforward_layernorm.weight", width);
  } else {
    map.place(block + ".attention_norm.weight", layer + ".input_layernorm.weight", width);
    map.place(block + ".ffn_norm.weight", layer + ".post_attention_layernorm.weight", width);
  }
}

/// A feed-forward of `hidden` units, of whatever is called `hf_name`.
void place_ffn(Mapper& map, const std::string& name, const std::string& hf_name, int64_t hidden, int64_t d_model) {
  map.place(name + ".gate_up.weight", hf_name + ".gate_proj.weight", {hidden, d_model});
  map.place(name + ".gate_up.weight", hf_name + ".up_proj.weight", {hidden, d_model});
  map.place(name + ".down.weight", hf_name + ".down_proj.weight", {d_model, hidden});
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
  if (c.balancing_bias != ExpertBias::none)
    map.place_buffer(block + std::string(kBalancingBias), layer + ".mlp.gate.e_score_correction_bias", {c.num_experts});
  if (c.num_shared_experts == 0) return;
  const auto shared = layer + (c.shared_expert_gate ? ".mlp.shared_expert" : ".mlp.shared_experts");
  place_ffn(map, block + ".moe.shared", shared, c.shared_hidden(), c.d_model);
  if (c.shared_expert_gate)
    map.place(block + ".moe.shared.gate.weight", layer + ".mlp.shared_expert_gate.weight", {1, c.d_model});
}

}  // namespace

std::vector<HfTensor> hf_tensors(const ModelConfig& config) {
  Mapper map;
  map.place("embedding.weight", "model.embed_tokens.weight", {config.vocab_size, config.d_model});
  const auto blocks = config.blocks();
  for (size_t l = 0; l < blocks.size(); ++l) {
    const auto block = fmt::format("blocks.{}", l), layer = fmt::format("model.layers.{}", l);
    place_norms(map, config, block, layer);
    place_attention(map, config, block, layer);
    blocks[l].feed_forward.has_experts()
        ? place_moe(map, config, block, layer)
        : place_ffn(map, block + ".ffn", layer + ".mlp", config.dense_hidden(), config.d_model);
  }
  map.place("final_norm.weight", "model.norm.weight", {config.d_model});
  if (!config.tie_embeddings) map.place("head.weight", "lm_head.weight", {config.vocab_size, config.d_model});
  return map.take();
}

}  // namespace olmoe
