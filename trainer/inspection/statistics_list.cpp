#include "trainer/inspection/statistics_list.h"

#include <ATen/ops/stack.h>

#include <algorithm>

#include "trainer/analysis/coactivation.h"
#include "trainer/analysis/contexts.h"
#include "trainer/analysis/drops.h"
#include "trainer/analysis/expert_load.h"
#include "trainer/analysis/layer_flow.h"
#include "trainer/analysis/vocabulary.h"

namespace olmoe {
namespace {

void append(std::vector<NamedArray>& all, std::vector<NamedArray> more) {
  for (auto& array : more) all.push_back(std::move(array));
}

}  // namespace

const std::vector<std::string>& statistic_names() {
  static const std::vector<std::string> names{"load",       "coactivation", "flow",  "vocabulary", "contexts",
                                              "saturation", "early",        "drops", "similarity", "super"};
  return names;
}

StatisticsList::StatisticsList(const std::vector<std::string>& names, const AnalysisShape& shape, int64_t checkpoints,
                               int64_t capacity)
    : checkpoints_(checkpoints) {
  const auto wanted = [&](const char* name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  for (int64_t c = 0; wanted("load") && c < checkpoints; ++c) load_.push_back(std::make_unique<ExpertLoad>(shape));
  if (wanted("saturation")) saturation_ = std::make_unique<Saturation>(shape, checkpoints);
  if (wanted("early")) early_ = std::make_unique<EarlyRouting>(shape, checkpoints);
  if (wanted("coactivation")) last_.push_back(std::make_unique<Coactivation>(shape));
  if (wanted("flow")) last_.push_back(std::make_unique<LayerFlow>(shape));
  if (wanted("vocabulary")) last_.push_back(std::make_unique<Vocabulary>(shape));
  if (wanted("contexts")) last_.push_back(std::make_unique<Contexts>(shape));
  if (wanted("drops")) last_.push_back(std::make_unique<Drops>(shape, capacity));
}

void StatisticsList::begin(int64_t checkpoint) {
  checkpoint_ = checkpoint;
  if (saturation_) saturation_->begin(checkpoint);
  if (early_) early_->begin(checkpoint);
}

void StatisticsList::add(const RoutedTokens& tokens) {
  if (!load_.empty()) load_.at(static_cast<size_t>(checkpoint_))->add(tokens);
  if (saturation_) saturation_->add(tokens);
  if (early_) early_->add(tokens);
  if (checkpoint_ != checkpoints_ - 1) return;
  for (const auto& statistic : last_) statistic->add(tokens);
}

std::vector<at::Tensor> StatisticsList::counts() {
  std::vector<at::Tensor> out;
  const auto take = [&](Statistic* statistic) {
    if (!statistic) return;
    for (auto& counts : statistic->counts()) out.push_back(std::move(counts));
  };
  for (const auto& load : load_) take(load.get());
  take(saturation_.get());
  take(early_.get());
  for (const auto& statistic : last_) take(statistic.get());
  return out;
}

std::vector<NamedArray> StatisticsList::arrays() const {
  std::vector<NamedArray> out;
  if (!load_.empty()) {
    std::vector<std::vector<NamedArray>> by_checkpoint;
    for (const auto& load : load_) by_checkpoint.push_back(load->arrays());
    for (size_t i = 0; i < by_checkpoint.front().size(); ++i) {
      std::vector<at::Tensor> values;
      for (const auto& arrays : by_checkpoint) values.push_back(arrays[i].values);
      out.push_back({by_checkpoint.front()[i].name, at::stack(values)});
    }
  }
  if (saturation_) append(out, saturation_->arrays());
  if (early_) append(out, early_->arrays());
  for (const auto& statistic : last_) append(out, statistic->arrays());
  return out;
}

}  // namespace olmoe
