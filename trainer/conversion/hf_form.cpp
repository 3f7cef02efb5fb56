#include "trainer/conversion/hf_form.h"

#include <fmt/ranges.h>

#include <map>
#include <vector>

#include "core/error.h"
#include "trainer/conversion/hf_names.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

/// The dense twin as a model with one expert. Its router is zero: the softmax of a single logit is 1, whatever it is.
HfForm with_one_expert(const HfClass& hf, const ModelConfig& dense, const ParamSource& weights) {
  ModelConfig one = dense;
  one.ffn = Ffn::moe;
  one.num_experts = one.top_k = 1;
  one.expert_width = dense.dense_hidden();
  one.share_experts = false;
  one.latent_dim = one.dense_width = one.dense_layers = one.num_shared_experts = one.shared_expert_width = 0;
  one.moe_every = 1;
  one.shared_expert_gate = one.renormalize_scores = false;
  one.router_score = RouterScore::softmax;
  one.score_scale = 1;
  one.gate = Gate::score;
  one.balancing_bias = ExpertBias::none;
  one.balancing_bias_rate.reset();
  one.routing = RoutingMethod::token_choice;
  one.expert_choice_scope = ChoiceScope::sequence;
  const auto named = [weights](const std::string& name, int64_t begin, at::Tensor out) {
    constexpr std::string_view kExperts = ".moe.experts.", kRouter = ".moe.router.";
    if (name.find(kRouter) != std::string::npos) return out.zero_(), void();
    auto ours = name;
    if (const auto at = name.find(kExperts); at != std::string::npos) ours.replace(at, kExperts.size(), ".ffn.");
    weights(ours, begin, out);
  };
  return {&hf, one, named};
}

/// Experts that blocks share, which are the first block's, as experts of each block.
ParamSource with_copies(const ModelConfig& config, const ParamSource& weights) {
  const auto first = fmt::format("blocks.{}", leading_dense_blocks(config));
  return [first, weights](const std::string& name, int64_t begin, at::Tensor out) {
    const auto at = name.find(".moe.experts.");
    weights(at == std::string::npos ? name : first + name.substr(at), begin, out);
  };
}

/// Experts without a bias as experts with a bias of zeros.
HfForm with_zero_bias(const HfForm& form) {
  auto config = form.config;
  config.balancing_bias = ExpertBias::loss_free;
  const auto named = [weights = form.weights](const std::string& name, int64_t begin, at::Tensor out) {
    name.ends_with(kBalancingBias) ? (out.zero_(), void()) : weights(name, begin, out);
  };
  return {form.hf, config, named};
}

HfForm as_class(const HfClass& hf, const ModelConfig& config, const ParamSource& weights) {
  return hf.experts && !config.has_experts() ? with_one_expert(hf, config, weights) : HfForm{&hf, config, weights};
}

/// Parameters of which some elements have no place in the class's tensors.
std::vector<std::string> unplaced(const ModelConfig& config) {
  std::map<std::string, int64_t> placed;
  for (const auto& tensor : hf_tensors(config)) placed[tensor.name] += numel_of(tensor.shape);
  std::vector<std::string> problems;
  for (const auto& param : whole_params(config))
    if (placed[param.name] != param.numel)
      problems.push_back(fmt::format("{}: has {} elements, the class's tensors hold {} of them", param.name,
                                     param.numel, placed[param.name]));
  return problems;
}

}  // namespace

HfForm hf_form(const ModelConfig& config, const ParamSource& weights) {
  if (config.share_experts && config.has_experts()) {
    auto copied = config;
    copied.share_experts = false;
    return hf_form(copied, with_copies(config, weights));
  }
  std::vector<std::string> fewest;
  for (const auto& hf : hf_classes()) {
    if (config.has_experts() && !hf.experts) continue;
    const auto form = as_class(hf, config, weights);
    auto problems = unheld_by(hf, form.config);
    if (problems.empty()) problems = unplaced(form.config);
    const bool lacks_bias = hf.router_score == RouterScore::sigmoid && form.config.balancing_bias == ExpertBias::none;
    if (problems.empty()) return lacks_bias ? with_zero_bias(form) : form;
    if (fewest.empty() || problems.size() < fewest.size()) fewest = std::move(problems);
  }
  throw ConfigError(fmt::format("no class of Hugging Face transformers computes exactly this model:\n  {}",
                                fmt::join(fewest, "\n  ")));
}

}  // namespace olmoe
