// The next token from logits [V]. Computed in float64, a function of its arguments alone.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace olmoe {

/// How the next token is chosen: greedily, or drawn from softmax(logits / temperature) of the tokens that top_k leaves,
/// of which top_p then leaves the most probable ones.
struct Sampling {
  double temperature = 0;  ///< 0: greedy
  int64_t top_k = 0;       ///< tokens with the highest logits that may be drawn; 0: all
  double top_p = 1;        ///< the fewest most probable tokens whose probabilities sum to at least this
  uint64_t seed = 0;

  bool is_greedy() const { return temperature == 0; }
};
/// Problems of the values, each "--option: what is wrong". Empty: valid.
std::vector<std::string> problems_of(const Sampling& sampling);

struct TokenProbability {
  int64_t id;
  double probability;
};

/// The token with the highest logit, of equal ones the lowest id. Throws Error for logits that are not finite.
int64_t greedy_token(const at::Tensor& logits_V);
/// The tokens that may be drawn with their probabilities, which sum to 1; with top_k or top_p in falling order. Of
/// equal logits the lower id is before the higher one. `sampling` is not greedy. Source of top_p: Holtzman et al.,
/// arXiv 1904.09751; the order of temperature, top_k and top_p is that of Hugging Face's generate().
std::vector<TokenProbability> token_distribution(const at::Tensor& logits_V, const Sampling& sampling);
/// The token at `uniform`, in (0, 1), of the cumulative distribution.
int64_t draw_token(std::span<const TokenProbability> distribution, double uniform);
/// Greedily, or drawn.
int64_t next_token(const at::Tensor& logits_V, const Sampling& sampling, double uniform);

}  // namespace olmoe
