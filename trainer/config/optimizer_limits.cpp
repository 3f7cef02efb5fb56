#include "trainer/config/optimizer_limits.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

namespace olmoe {
namespace {

/// Problems of the warm-up of the clipping norm.
std::vector<std::string> refuse_clip_warmup(const OptimizerConfig& config) {
  const double factor = config.clip_warmup_factor;
  const int64_t steps = config.clip_warmup_steps;
  if (steps == 0 && factor != 1)
    return {fmt::format("optimizer.clip_warmup_factor: {} has no effect without optimizer.clip_warmup_steps", factor)};
  if (steps > 0 && factor == 1)
    return {fmt::format("optimizer.clip_warmup_steps: {} have no effect with optimizer.clip_warmup_factor: 1", steps)};
  if (steps > 0 && config.clip_norm == 0)
    return {"optimizer.clip_warmup_steps: there is no norm to warm up without clipping (optimizer.clip_norm: 0)"};
  return {};
}

template <typename P>
bool vanishes(double x) {
  return x > 0 && static_cast<P>(x) < std::numeric_limits<P>::min();
}
template <typename P>
bool overflows(double x) {
  return !std::isfinite(static_cast<P>(x));
}

/// Problems of constants that are in range, after rounding to P.
template <typename P>
std::vector<std::string> lost_constants(const OptimizerConfig& config, const char* dtype) {
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, std::string problem) {
    if (bad) problems.push_back(std::move(problem));
  };
  const auto in_range = [&](const std::string& key, double value) {
    refuse(vanishes<P>(value), fmt::format("optimizer.{}: {} vanishes in {}, whose smallest number is {:.2g}", key,
                                           value, dtype, std::numeric_limits<P>::min()));
    refuse(overflows<P>(value), fmt::format("optimizer.{}: {} is infinite in {}, whose largest number is {:.2g}", key,
                                            value, dtype, std::numeric_limits<P>::max()));
  };
  in_range("lr", config.lr);
  in_range("eps", config.eps);
  in_range("clip_norm", config.clip_norm);
  in_range("weight_decay", config.weight_decay);
  for (const auto& [key, beta] : {std::pair("beta1", config.beta1), std::pair("beta2", config.beta2)}) {
    in_range(key, beta);
    refuse(static_cast<P>(beta) == 1,
           fmt::format("optimizer.{}: {} rounds to 1 in {}: the moment would never decay", key, beta, dtype));
  }
  if (config.clip_warmup_steps > 0) in_range("clip_warmup_factor", config.clip_norm_of(1));
  if (config.kind == OptimizerKind::muon) {
    in_range("muon.momentum", config.muon.momentum);
    refuse(static_cast<P>(config.muon.momentum) == 1,
           fmt::format("optimizer.muon.momentum: {} rounds to 1 in {}: the momentum would never take up a gradient",
                       config.muon.momentum, dtype));
    for (const double coefficient : config.muon.ns_coefficients)
      refuse(overflows<P>(coefficient),
             fmt::format("optimizer.muon.ns_coefficients: {} is not finite in {}", coefficient, dtype));
    refuse(
        config.muon.ns_coefficients.size() != 3,
        fmt::format("optimizer.muon.ns_coefficients: {} numbers, want a, b and c", config.muon.ns_coefficients.size()));
  }
  return problems;
}

/// Problems, after rounding to P, of the step size of the first step, and of the share that decays at the peak rate.
template <typename P>
std::vector<std::string> lost_rates(const OptimizerConfig& config, const char* dtype) {
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, std::string problem) {
    if (bad) problems.push_back(std::move(problem));
  };
  const auto check_step = [&](const std::string& key, double lr) {
    refuse(vanishes<P>(lr), fmt::format("optimizer.{}: a learning rate of {:.6g} vanishes in {}", key, lr, dtype));
    refuse(overflows<P>(lr / (1 - config.beta1)),
           fmt::format("optimizer.{}: {} / (1 - beta1 {}) is infinite in {}", key, lr, config.beta1, dtype));
  };
  const auto check_decay = [&](const std::string& key, double weight_decay, double lr) {
    const double decay = lr * weight_decay;
    refuse(decay > 0 && static_cast<P>(1 - decay) == 1,
           fmt::format("optimizer.{}: {} at lr {:.6g} vanishes next to 1 in {}, so that nothing decays; use 0, or a "
                       "larger value",
                       key, weight_decay, lr, dtype));
    refuse(overflows<P>(1 - decay),
           fmt::format("optimizer.{}: {} at lr {:.6g} is infinite in {}", key, weight_decay, lr, dtype));
  };
  check_step("lr", config.lr);
  check_decay("weight_decay", config.weight_decay, config.lr);
  // A group's parameters may be trained by AdamW, by Muon with its own rate and decay, or some by each.
  std::vector<std::pair<double, double>> rates{{config.lr, config.weight_decay}};
  if (config.kind == OptimizerKind::muon) {
    const auto& [lr, decay] =
        rates.emplace_back(config.lr * config.muon.lr_scale, config.muon.weight_decay.value_or(config.weight_decay));
    check_step("muon.lr_scale", lr);
    if (problems.empty()) check_decay("muon.weight_decay", decay, lr);
  }
  for (size_t i = 0; i < config.groups.size(); ++i)
    for (const auto& [lr_without, decay_without] : rates) {
      const auto& group = config.groups[i];
      const double lr = lr_without * group.lr_scale;
      check_step(fmt::format("groups[{}].lr_scale", i), lr);
      if (problems.empty())
        check_decay(fmt::format("groups[{}].weight_decay", i), group.weight_decay.value_or(decay_without), lr);
    }
  return problems;
}

template <typename P>
std::vector<std::string> lost_in(const OptimizerConfig& config, const char* dtype) {
  auto problems = lost_constants<P>(config, dtype);
  return problems.empty() ? lost_rates<P>(config, dtype) : problems;
}

}  // namespace

std::vector<std::string> validate(const OptimizerConfig& config, ComputeDtype compute_dtype) {
  if (!values_out_of_range(config).empty()) return {};  // reported with those of the other sections
  if (auto problems = refuse_clip_warmup(config); !problems.empty()) return problems;
  return compute_dtype == ComputeDtype::float64 ? lost_in<double>(config, "float64") : lost_in<float>(config, "fp32");
}

}  // namespace olmoe
