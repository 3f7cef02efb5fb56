#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "parallel/param_role.h"
#include "trainer/config/config.h"

namespace olmoe {

/// How the optimizer treats a parameter.
struct ParamRule {
  OptimizerKind kind = OptimizerKind::adamw;
  double lr_scale = 1;      ///< times the schedule's rate
  double weight_decay = 0;  ///< decoupled
  bool frozen = false;      ///< then the others have no meaning
};

/// The rule of the group in optimizer.groups that matches a parameter, or of the section itself. `config` has no
/// problems, so that one group at most matches.
ParamRule rule_of(const OptimizerConfig& config, const std::string& name, ParamRole role);
bool has_frozen(const OptimizerConfig& config);
/// Elements that are kept of all parameters beside the weights: two moments by AdamW, one by Muon, none of what is
/// frozen.
int64_t count_moments(const OptimizerConfig& config, const ModelConfig& model);
/// Problems of optimizer.groups in a model that has none, by key: a pattern that matches no parameter, a parameter that
/// two match, a frozen group with a rate or decay, a model that is frozen as a whole, Muon without a matrix to train.
std::vector<std::string> validate_groups(const OptimizerConfig& config, const ModelConfig& model);
/// A line for each group: what it matches, and what is done to that.
std::vector<std::string> describe_groups(const OptimizerConfig& config, const ModelConfig& model);
/// Why a run that freezes what `now` does, and trains the rest as `now` does, cannot resume from the state of one of
/// `before`, whose moments are those of what it trained; empty if it can. Of runs with one model.
std::string moments_problem(const OptimizerConfig& before, const OptimizerConfig& now, const ModelConfig& model);

}  // namespace olmoe
