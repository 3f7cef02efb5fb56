// Shapes: V vocabulary.
#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "model/head.h"
#include "model/init.h"
#include "model/transformer.h"
#include "trainer/generation/kv_cache.h"

namespace olmoe {

/// Values of a model's buffers, such as the bias of experts: those of `names`; others keep their initial ones.
struct BufferValues {
  std::set<std::string> names = {};
  ParamSource source = {};
};
/// New tokens of a sequence of a cache, after those that it holds.
struct NewTokens {
  int64_t sequence;
  std::span<const int64_t> ids;
};

/// A whole model in the memory of one process, for computing logits on a CPU: weights in the compute dtype, no
/// gradients, no optimizer. Texts depend on themselves alone: experts with a capacity drop nothing.
class InferenceModel {
 public:
  /// Reads all weights. Throws ConfigError naming model.routing where experts choose tokens: which ones depends on
  /// later tokens. `dtype`: bfloat16, float32 or float64.
  InferenceModel(const ModelConfig& config, at::ScalarType dtype, const ParamSource& weights,
                 const BufferValues& buffers = {});
  InferenceModel(const InferenceModel&) = delete;
  InferenceModel& operator=(const InferenceModel&) = delete;

  const ModelConfig& config() const { return config_; }
  at::ScalarType dtype() const { return dtype_; }
  /// Logits [n, V] after the last new token of each of n sequences, which are different ones; adds the tokens to the
  /// cache. Prompts, parts of them and single tokens may be together.
  at::Tensor extend(KvCache& cache, std::span<const NewTokens> tokens);
  /// Logits [S, V] after each of S tokens of a sequence, in one forward without a cache.
  at::Tensor logits(std::span<const int64_t> ids);
  /// Logits [V] after the last of them. The sequence is computed with so many tokens behind it, which do not change it,
  /// that few lengths are in use, each of which has a table of rotary angles; at most `most` in all.
  at::Tensor last_logits(std::span<const int64_t> ids, int64_t most);

 private:
  void read_weights(const ParamSource& weights);
  void read_buffers(const BufferValues& buffers);
  /// The input of the head, [N, D]. `runs` and positions: of tokens after those in `cache`, if there is one.
  at::Tensor hidden(const at::Tensor& ids_BS, const KvCache* cache = nullptr,
                    std::span<const kernels::CachedRun> runs = {}, const at::Tensor& positions_N = {});
  Head& head() { return dynamic_cast<Head&>(*stages_.back()); }

  const ModelConfig config_;  // the stages refer to it
  at::ScalarType dtype_;
  std::unique_ptr<Communicator> world_;
  DeviceMesh mesh_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

}  // namespace olmoe
