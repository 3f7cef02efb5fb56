// Shapes: L blocks with experts, E experts of each.
#pragma once
#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <span>
#include <string>
#include <vector>

namespace olmoe {

/// What the assignments of one step say of its routers. All is 0 without experts.
struct RouterHealth {
  double max_load = 0;        ///< assignments of the busiest expert / the mean of its layer; the largest over layers
  double load_variation = 0;  ///< standard deviation of a layer's assignments / their mean; the largest over layers
  int64_t dead_experts = 0;   ///< of all layers: no token for so many steps
  /// What is wrong that the load-balancing loss does not show, a sentence each. One kind is said again only after
  /// RouterWatch::kQuietSteps steps.
  std::vector<std::string> warnings = {};
};

/// Assignments of one step by the rank whose tokens they are, in the order of `shape`: ranks, L, E.
struct RankCounts {
  std::vector<int64_t> counts;
  std::array<int64_t, 3> shape;
};

/// Watches the assignments of every step, on the host. The load-balancing loss alone does not show imbalance: it is
/// below 1 where experts with few tokens have much probability, and may fall while loads drift apart.
class RouterWatch {
 public:
  static constexpr int64_t kQuietSteps = 1000;
  /// Steps of each of the two spans whose means are compared.
  static constexpr size_t kSpan = 50;

  RouterWatch(int64_t num_layers, int64_t num_experts, int64_t dead_after)
      : experts_(num_experts), dead_after_(dead_after), idle_(static_cast<size_t>(num_layers * num_experts), 0) {}
  /// `counts_LE`: assignments of all ranks in the step; `load_balancing_loss`: unweighted, the mean over layers.
  RouterHealth after_step(std::span<const double> counts_LE, double load_balancing_loss);

  /// Steps without a token up to now, of the experts that have any, by "layer.expert": what a checkpoint keeps.
  std::map<std::string, int64_t> idle() const;
  /// Throws Error for an expert that this model does not have.
  void set_idle(const std::map<std::string, int64_t>& idle);

 private:
  struct Step {
    double loss, variation;
  };
  void count_idle(std::span<const double> counts_LE, RouterHealth& health);
  void warn(RouterHealth& health, const char* kind, std::string text);
  std::string name_dead() const;
  void compare_spans(RouterHealth& health);

  int64_t experts_, dead_after_;
  std::vector<int64_t> idle_;  // [L, E] steps
  std::deque<Step> recent_;
  int64_t steps_ = 0;
  int64_t dead_before_ = 0;
  std::map<std::string, int64_t> said_at_;  // the step of each kind of warning
};

}  // namespace olmoe
