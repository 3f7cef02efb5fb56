// The attention variants that tests of models and runs go through, and micro-batches with documents.
#pragma once
#include <ATen/ATen.h>

#include <functional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "model/config.h"

namespace olmoe::test {

struct AttentionVariant {
  std::string name;
  std::function<void(ModelConfig&)> set;
  bool documents = false;  ///< attention stays within them
};

inline const std::vector<AttentionVariant>& attention_variants() {
  constexpr auto kRotary = PositionEmbedding::rotary, kNone = PositionEmbedding::none;
  static const std::vector<AttentionVariant> all{
      {"a window", [](auto& m) { m.attention_windows = {4}; }},
      {"as OLMo-3, windows and every second block full",
       [](auto& m) {
         m.attention_windows = {4, 0};
       }},
      {"a window of its own in each block",
       [](auto& m) {
         m.attention_windows = {0, 2, 3};
       }},
      {"no rotary embedding", [](auto& m) { m.position_embeddings = {kNone}; }},
      {"rotary embedding in some blocks",
       [](auto& m) {
         m.position_embeddings = {kRotary, kNone};
       }},
      {"no rotary embedding, clipped, no QK-norm",
       [](auto& m) {
         m.position_embeddings = {kNone};
         m.qk_norm = QkNorm::none;
         m.clip_qkv = 0.8;
       }},
      {"scalable softmax", [](auto& m) { m.scalable_softmax = true; }},
      {"scalable softmax in windows, clipped",
       [](auto& m) {
         m.scalable_softmax = true;
         m.attention_windows = {5, 0};
         m.clip_qkv = 0.8;
       }},
      {"documents", [](auto&) {}, true},
      {"documents, one key/value head", [](auto& m) { m.num_kv_heads = 1; }, true},
      {"documents in windows, no rotary embedding",
       [](auto& m) {
         m.attention_windows = {3};
         m.position_embeddings = {kNone};
       },
       true},
      {"as OLMo 3.5's full blocks, within documents",
       [](auto& m) {
         m.scalable_softmax = true;
         m.position_embeddings = {kNone};
       },
       true},
      {"all at once",
       [](auto& m) {
         m.scalable_softmax = true;
         m.attention_windows = {3, 0};
         m.position_embeddings = {kRotary, kNone, kRotary};
         m.clip_qkv = 0.8;
         m.qk_norm = QkNorm::none;
       },
       true},
  };
  return all;
}

inline ModelConfig with(const AttentionVariant& variant, ModelConfig model) {
  variant.set(model);
  return model;
}

/// The batch, divided into documents of 1, 2, 3, ... tokens, which sequences cut.
inline Batch with_documents(Batch batch) {
  const int64_t B = batch.ids_BS.size(0), S = batch.ids_BS.size(1);
  std::vector<int32_t> bounds{0};
  int64_t end = 1, length = 1;
  for (int64_t n = 1; n <= B * S; ++n) {
    if (n == end || n % S == 0) bounds.push_back(static_cast<int32_t>(n));
    if (n == end) end += ++length;
  }
  if (B > 0) batch.bounds = batch.bounds_cpu = at::tensor(bounds, at::kInt);
  return batch;
}
inline Batch as_in(const AttentionVariant& variant, Batch batch) {
  return variant.documents ? with_documents(std::move(batch)) : batch;
}

}  // namespace olmoe::test
