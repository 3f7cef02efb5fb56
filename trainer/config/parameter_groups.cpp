#include "trainer/config/parameter_groups.h"

#include <c10/util/accumulate.h>
#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>

#include "core/text.h"
#include "model/transformer.h"

namespace olmoe {
namespace {

struct NamedParam {
  std::string name;
  ParamRole role;
  int64_t numel;
};

std::vector<NamedParam> params_of(const ModelConfig& model) {
  std::vector<NamedParam> out;
  for (const auto& stage : list_params(model))
    for (const auto& param : stage) out.push_back({param.name, param.role, c10::multiply_integers(param.global_shape)});
  return out;
}

bool matches(const ParamGroup& group, const std::string& name) {
  return ::fnmatch(group.match.c_str(), name.c_str(), 0) == 0;
}

const ParamGroup* group_of(const OptimizerConfig& config, const std::string& name) {
  const auto found = std::ranges::find_if(config.groups, [&](const auto& group) { return matches(group, name); });
  return found == config.groups.end() ? nullptr : &*found;
}

bool is_frozen(const OptimizerConfig& config, const std::string& name) {
  const auto* const group = group_of(config, name);
  return group != nullptr && group->frozen;
}

bool is_for_muon(const OptimizerConfig& config, ParamRole role) {
  return config.kind == OptimizerKind::muon &&
         (role == ParamRole::matrix || role == ParamRole::output || (role == ParamRole::router && config.muon.router));
}

/// "frozen", "trained", or by what it is trained where that differs between parameters.
std::string treatment_of(const OptimizerConfig& config, const NamedParam& param, bool says_by_what) {
  if (is_frozen(config, param.name)) return "frozen";
  if (!says_by_what) return "trained";
  return is_for_muon(config, param.role) ? "trained by Muon" : "trained by AdamW";
}

std::string key_of(const OptimizerConfig& config, const ParamGroup& group) {
  return fmt::format("optimizer.groups[{}]", &group - config.groups.data());
}

/// Problems of a group alone.
std::vector<std::string> problems_of(const ParamGroup& group, const std::string& key,
                                     const std::vector<NamedParam>& params) {
  std::vector<std::string> out;
  if (std::ranges::none_of(params, [&](const auto& param) { return matches(group, param.name); }))
    out.push_back(fmt::format("{}.match: {} matches no parameter; they are named {}, {} and so on", key, group.match,
                              params.front().name, params[params.size() / 2].name));
  const auto refuse = [&](bool given, std::string_view field) {
    if (group.frozen && given)
      out.push_back(fmt::format("{}.{}: has no meaning for what is frozen; leave it out", key, field));
  };
  refuse(group.lr_scale != 1, "lr_scale");
  refuse(group.weight_decay.has_value(), "weight_decay");
  return out;
}

}  // namespace

ParamRule rule_of(const OptimizerConfig& config, const std::string& name, ParamRole role) {
  ParamRule rule{.weight_decay = config.weight_decay};
  if (is_for_muon(config, role)) {
    rule.kind = OptimizerKind::muon;
    rule.lr_scale = config.muon.lr_scale;
    rule.weight_decay = config.muon.weight_decay.value_or(config.weight_decay);
  }
  if (role == ParamRole::embedding && !config.decay_embeddings) rule.weight_decay = 0;
  const bool of_norm = role == ParamRole::norm || role == ParamRole::bias;
  if (of_norm && !config.decay_norms) rule.weight_decay = 0;
  if (const auto* const group = group_of(config, name)) {
    rule.lr_scale *= group->lr_scale;
    rule.weight_decay = group->weight_decay.value_or(rule.weight_decay);
    rule.frozen = group->frozen;
  }
  return rule;
}

bool has_frozen(const OptimizerConfig& config) { return std::ranges::any_of(config.groups, &ParamGroup::frozen); }

int64_t count_moments(const OptimizerConfig& config, const ModelConfig& model) {
  int64_t numel = 0;
  for (const auto& param : params_of(model))
    if (!is_frozen(config, param.name)) numel += (is_for_muon(config, param.role) ? 1 : 2) * param.numel;
  return numel;
}

std::vector<std::string> validate_groups(const OptimizerConfig& config, const ModelConfig& model) {
  std::vector<std::string> problems;
  if (config.groups.empty()) return problems;
  const auto params = params_of(model);
  for (const auto& group : config.groups)
    for (auto& problem : problems_of(group, key_of(config, group), params)) problems.push_back(std::move(problem));
  for (const auto& param : params) {
    const auto* const first = group_of(config, param.name);
    const auto second = std::find_if(config.groups.begin(), config.groups.end(),
                                     [&](const auto& group) { return &group != first && matches(group, param.name); });
    if (second == config.groups.end()) continue;
    problems.push_back(fmt::format("{}.match: {} matches {}, and so does {} of {}: a parameter has one group at most",
                                   key_of(config, *second), second->match, param.name, first->match,
                                   key_of(config, *first)));
    break;  // one parameter shows which two patterns overlap
  }
  if (problems.empty() && std::ranges::all_of(params, [&](const auto& param) { return is_frozen(config, param.name); }))
    problems.push_back("optimizer.groups: every parameter is frozen, so that nothing is trained");
  else if (problems.empty() && config.kind == OptimizerKind::muon &&
           std::ranges::none_of(params, [&](const auto& param) {
             return is_for_muon(config, param.role) && !is_frozen(config, param.name);
           }))
    problems.push_back(
        "optimizer.kind: muon has nothing to train, for every matrix is frozen (optimizer.groups); use adamw");
  return problems;
}

std::vector<std::string> describe_groups(const OptimizerConfig& config, const ModelConfig& model) {
  std::vector<std::string> lines;
  if (config.groups.empty()) return lines;
  const auto params = params_of(model);
  for (const auto& group : config.groups) {
    int64_t count = 0, numel = 0;
    for (const auto& param : params) {
      if (!matches(group, param.name)) continue;
      ++count;
      numel += param.numel;
    }
    auto what = fmt::format("learning rate x {}", group.lr_scale);
    if (group.weight_decay) what += fmt::format(", weight decay {}", *group.weight_decay);
    lines.push_back(fmt::format("{}: {} is {} of {} values: {}", key_of(config, group), group.match,
                                counted(count, "parameter"), grouped(numel), group.frozen ? "frozen" : what));
  }
  return lines;
}

std::string moments_problem(const OptimizerConfig& before, const OptimizerConfig& now, const ModelConfig& model) {
  const bool with_muon = before.kind == OptimizerKind::muon || now.kind == OptimizerKind::muon;
  if (!has_frozen(before) && !has_frozen(now) && !with_muon) return {};
  for (const auto& param : params_of(model)) {
    const auto was = treatment_of(before, param, with_muon), is = treatment_of(now, param, with_muon);
    if (was == is) continue;
    const bool frozen = is_frozen(before, param.name) || is_frozen(now, param.name);
    return fmt::format(
        "optimizer.{}: {} was {} and would be {} now, but a checkpoint has the moments of what was "
        "trained. Start a new run from its weights (train.init_from)",
        frozen                    ? "groups"
        : before.kind != now.kind ? "kind"
                                  : "muon.router",
        param.name, was, is);
  }
  return {};
}

}  // namespace olmoe
