#include "trainer/health/router_health.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/text.h"

namespace olmoe {
namespace {

/// Below 1 by more than rounding and the noise of loads in balance.
constexpr double kBelowOne = 0.999;
/// Relative change between two spans of steps.
constexpr double kLossFell = 0.01, kVariationRose = 0.05;
constexpr size_t kMostNamed = 8;

struct Load {
  double max, variation;
};

Load load_of(std::span<const double> counts_E) {
  const auto experts = static_cast<double>(counts_E.size());
  const double mean = std::accumulate(counts_E.begin(), counts_E.end(), 0.0) / experts;
  if (mean <= 0) return {0, 0};
  double squares = 0;
  for (const double count : counts_E) squares += (count - mean) * (count - mean);
  return {*std::ranges::max_element(counts_E) / mean, std::sqrt(squares / experts) / mean};
}

}  // namespace

RouterHealth RouterWatch::after_step(std::span<const double> counts_LE, double load_balancing_loss) {
  ENSURE(counts_LE.size() == idle_.size(), "{} counts of experts, not {}", counts_LE.size(), idle_.size());
  RouterHealth health;
  ++steps_;
  if (idle_.empty()) return health;
  const auto experts = static_cast<size_t>(experts_);
  for (size_t first = 0; first < counts_LE.size(); first += experts) {
    const auto load = load_of(counts_LE.subspan(first, experts));
    health.max_load = std::max(health.max_load, load.max);
    health.load_variation = std::max(health.load_variation, load.variation);
  }
  count_idle(counts_LE, health);
  if (load_balancing_loss < kBelowOne)
    warn(
        health, "below 1",
        fmt::format("the load-balancing loss is {:.4f}, below 1, while the busiest expert has {:.2f} times the mean of "
                    "its layer: experts with few tokens have much probability, and the loss does not measure balance",
                    load_balancing_loss, health.max_load));
  recent_.push_back({load_balancing_loss, health.load_variation});
  compare_spans(health);
  return health;
}

void RouterWatch::count_idle(std::span<const double> counts_LE, RouterHealth& health) {
  for (size_t i = 0; i < idle_.size(); ++i) idle_[i] = counts_LE[i] > 0 ? 0 : idle_[i] + 1;
  health.dead_experts = std::ranges::count_if(idle_, [&](int64_t steps) { return steps >= dead_after_; });
  if (health.dead_experts > dead_before_) said_at_.erase("dead");  // more of them: said at once
  dead_before_ = health.dead_experts;
  if (health.dead_experts > 0)
    warn(health, "dead",
         fmt::format("{} had no token for {} steps or more: {}", counted(health.dead_experts, "expert"), dead_after_,
                     name_dead()));
}

std::string RouterWatch::name_dead() const {
  std::string names;
  size_t named = 0;
  for (size_t i = 0; i < idle_.size(); ++i) {
    if (idle_[i] < dead_after_) continue;
    if (++named > kMostNamed) return names + ", ...";
    const auto index = static_cast<int64_t>(i);
    names += fmt::format("{}{} of layer {}", named > 1 ? ", " : "", index % experts_, index / experts_);
  }
  return names;
}

void RouterWatch::compare_spans(RouterHealth& health) {
  if (recent_.size() > 2 * kSpan) recent_.pop_front();
  if (recent_.size() < 2 * kSpan) return;
  Step before{0, 0}, now{0, 0};
  for (size_t i = 0; i < kSpan; ++i) {
    before.loss += recent_[i].loss, before.variation += recent_[i].variation;
    now.loss += recent_[kSpan + i].loss, now.variation += recent_[kSpan + i].variation;
  }
  if (now.loss > before.loss * (1 - kLossFell) || now.variation <= before.variation * (1 + kVariationRose)) return;
  constexpr double kSteps = kSpan;
  warn(health, "apart",
       fmt::format(
           "the load-balancing loss fell from {:.4f} to {:.4f} while the variation of the loads rose from {:.3f} "
           "to {:.3f} (means of {} steps): it is minimised without balance",
           before.loss / kSteps, now.loss / kSteps, before.variation / kSteps, now.variation / kSteps, kSpan));
}

void RouterWatch::warn(RouterHealth& health, const char* kind, std::string text) {
  const auto said = said_at_.find(kind);
  if (said != said_at_.end() && steps_ - said->second < kQuietSteps) return;
  said_at_[kind] = steps_;
  health.warnings.push_back(std::move(text));
}

std::map<std::string, int64_t> RouterWatch::idle() const {
  std::map<std::string, int64_t> out;
  for (size_t i = 0; i < idle_.size(); ++i) {
    const auto index = static_cast<int64_t>(i);
    if (idle_[i] > 0) out[fmt::format("{}.{}", index / experts_, index % experts_)] = idle_[i];
  }
  return out;
}

void RouterWatch::set_idle(const std::map<std::string, int64_t>& idle) {
  std::ranges::fill(idle_, 0);
  for (const auto& [name, steps] : idle) {
    int64_t layer = -1, expert = -1;
    const char* const end = name.data() + name.size();
    const auto dot = std::from_chars(name.data(), end, layer);
    if (dot.ptr != end && *dot.ptr == '.') std::from_chars(dot.ptr + 1, end, expert);
    ENSURE(layer >= 0 && expert >= 0 && expert < experts_ && layer * experts_ + expert < std::ssize(idle_),
           "steps without a token of expert {}, which the model does not have", name);
    idle_[static_cast<size_t>(layer * experts_ + expert)] = steps;
  }
}

}  // namespace olmoe
