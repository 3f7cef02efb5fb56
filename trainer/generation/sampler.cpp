#include "trainer/generation/sampler.h"

#include <algorithm>
#include <cmath>
#include <tuple>

#include "core/error.h"

namespace olmoe {
namespace {

struct TokenLogit {
  int64_t id;
  double logit;
  bool operator<(const TokenLogit& other) const {  // the more probable first
    return std::tuple(-logit, id) < std::tuple(-other.logit, other.id);
  }
};

/// In the order of ids.
std::vector<TokenLogit> finite_logits(const at::Tensor& logits_V) {
  ENSURE(logits_V.dim() == 1 && logits_V.numel() > 0, "logits of one token are a vector, not of {} dimensions",
         logits_V.dim());
  const auto values = logits_V.to(at::kCPU, at::kDouble).contiguous();
  const auto* data = values.const_data_ptr<double>();
  std::vector<TokenLogit> out;
  out.reserve(static_cast<size_t>(values.numel()));
  for (int64_t id = 0; id < values.numel(); ++id) {
    if (!std::isfinite(data[id]))
      throw Error(
          fmt::format("the logit of token {} is {}: the weights are not those of a model that works", id, data[id]),
          ExitCode::non_finite);
    out.push_back({id, data[id]});
  }
  return out;
}

/// Keeps the `count` most probable tokens, in falling order.
void keep_first(std::vector<TokenLogit>& tokens, int64_t count) {
  const auto kept = std::min(tokens.size(), static_cast<size_t>(count));
  std::partial_sort(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(kept), tokens.end());
  tokens.resize(kept);
}

}  // namespace

std::vector<std::string> problems_of(const Sampling& sampling) {
  std::vector<std::string> out;
  const auto& [temperature, top_k, top_p, seed] = sampling;
  if (!(temperature >= 0) || !std::isfinite(temperature))
    out.push_back(fmt::format("--temperature: {} is not 0, for greedy, or positive", temperature));
  if (top_k < 0) out.push_back(fmt::format("--top-k: {} is not 0, for all tokens, or positive", top_k));
  if (!(top_p > 0 && top_p <= 1)) out.push_back(fmt::format("--top-p: {} is not above 0 and at most 1", top_p));
  if (sampling.is_greedy() && (top_k > 0 || top_p < 1))
    out.push_back("--top-k and --top-p choose among tokens that are drawn: set --temperature, which is 0 for greedy");
  return out;
}

int64_t greedy_token(const at::Tensor& logits_V) {
  const auto tokens = finite_logits(logits_V);
  return std::min_element(tokens.begin(), tokens.end())->id;
}

std::vector<TokenProbability> token_distribution(const at::Tensor& logits_V, const Sampling& sampling) {
  ENSURE(!sampling.is_greedy() && problems_of(sampling).empty(), "a distribution needs valid sampling, temperature {}",
         sampling.temperature);
  auto tokens = finite_logits(logits_V);
  const double largest = std::min_element(tokens.begin(), tokens.end())->logit;
  if (sampling.top_k > 0) keep_first(tokens, sampling.top_k);
  if (sampling.top_k == 0 && sampling.top_p < 1) std::sort(tokens.begin(), tokens.end());
  std::vector<TokenProbability> out;
  double sum = 0;
  for (const auto& [id, logit] : tokens) {
    out.push_back({id, std::exp((logit - largest) / sampling.temperature)});
    sum += out.back().probability;
  }
  if (sampling.top_p < 1) {
    const double wanted = sampling.top_p * sum;
    double kept = 0;
    size_t count = 0;
    while (count < out.size() && kept < wanted) kept += out[count++].probability;
    out.resize(count);
    sum = kept;
  }
  for (auto& token : out) token.probability /= sum;
  return out;
}

int64_t draw_token(std::span<const TokenProbability> distribution, double uniform) {
  ENSURE(!distribution.empty(), "there is no token to draw");
  double below = 0;
  for (const auto& [id, probability] : distribution) {
    below += probability;
    if (uniform < below) return id;
  }
  // Probabilities that were rounded sum to less than 1: of those that are not zero, the last.
  const auto last = std::find_if(distribution.rbegin(), distribution.rend(),
                                 [](const TokenProbability& token) { return token.probability > 0; });
  return last->id;
}

int64_t next_token(const at::Tensor& logits_V, const Sampling& sampling, double uniform) {
  return sampling.is_greedy() ? greedy_token(logits_V) : draw_token(token_distribution(logits_V, sampling), uniform);
}

}  // namespace olmoe
