#include "trainer/preflight/schedule_notices.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "trainer/config/lr_schedule.h"

namespace olmoe {
namespace {

/// Says so where the warm-up is the default of 2,500 steps, which is meant for long runs.
std::string named_warmup(const ScheduleConfig& schedule) {
  const bool is_default = schedule.warmup_steps == ScheduleConfig{}.warmup_steps;
  return fmt::format("schedule.warmup_steps: {}{}", schedule.warmup_steps, is_default ? " (the default)" : "");
}

std::vector<std::string> warmup_notices(const Config& config) {
  const int64_t warmup = config.schedule.warmup_steps, steps = config.train.steps;
  const double peak = config.optimizer.lr;
  if (warmup > steps)
    return {
        fmt::format("{} is longer than the run of train.steps = {}: the learning rate ends at {:.4g} and never "
                    "reaches its peak, optimizer.lr = {:.4g}",
                    named_warmup(config.schedule), steps, learning_rate(config, steps), peak)};
  if (2 * warmup > steps)
    return {fmt::format("{} is more than half of the run of train.steps = {}", named_warmup(config.schedule), steps)};
  return {};
}

std::vector<std::string> decay_notices(const Config& config) {
  const auto& schedule = config.schedule;
  const int64_t warmup = schedule.warmup_steps, steps = config.train.steps;
  const auto end = decay_end(schedule, steps);
  if (!end || warmup > steps) return {};
  const auto decay = *end;
  const auto key = schedule.decay_steps > 0 ? "schedule.decay_steps" : "train.steps, where the decay ends";
  const double floor = schedule.final_fraction * config.optimizer.lr;
  if (decay <= warmup)
    return {fmt::format(
        "{}: {} is not after the warm-up, schedule.warmup_steps = {}: the learning rate {} its floor, "
        "{:.4g}, at step {}",
        key, decay, warmup,
        warmup > 1 ? fmt::format("falls from {:.4g} to", learning_rate(config, warmup - 1)) : "is at", floor, warmup)};
  if (decay > steps)
    return {
        fmt::format("{}: {} is after the last step, train.steps = {}: the learning rate ends at {:.4g}, not at its "
                    "floor, {:.4g}",
                    key, decay, steps, learning_rate(config, steps), floor)};
  return {};
}

/// Of a run that ends before its batch-size warm-up does.
std::vector<std::string> batch_notices(const Config& config) {
  const auto& train = config.train;
  if (train.batch_size_warmup.empty() || train.batch_size_warmup.back().until_step < train.steps) return {};
  return {
      fmt::format("train.batch_size_warmup: its last phase ends at step {}, the run at train.steps = {}: no step has "
                  "train.global_batch_size = {} sequences",
                  train.batch_size_warmup.back().until_step, train.steps, train.global_batch_size)};
}

/// Of a run that ends before the warm-up of its clipping norm does.
std::vector<std::string> clip_notices(const Config& config) {
  const auto& optimizer = config.optimizer;
  if (optimizer.clip_warmup_steps < config.train.steps) return {};
  return {fmt::format(
      "optimizer.clip_warmup_steps: {} of a run of train.steps = {}: no step has the clipping norm {:.4g} of "
      "optimizer.clip_norm, all have {:.4g}",
      optimizer.clip_warmup_steps, config.train.steps, optimizer.clip_norm, optimizer.clip_norm_of(1))};
}

/// Of keys that were set and that another key leaves without effect.
std::vector<std::string> unused_notices(const Config& config) {
  const auto& schedule = config.schedule;
  std::vector<std::string> notices, unused;
  const auto say = [&](bool is_unused, std::string notice) {
    if (is_unused) notices.push_back(std::move(notice));
  };
  if (config.optimizer.kind != OptimizerKind::muon)
    for (const auto& difference : differing_fields(MuonConfig{}, config.optimizer.muon))
      unused.push_back("optimizer.muon." + difference.substr(0, difference.find(": ")));
  say(!unused.empty(),
      fmt::format("{}: no effect with optimizer.kind: {}", fmt::join(unused, ", "), enum_name(config.optimizer.kind)));
  const bool cools = schedule.cooldown_steps != 0 || schedule.cooldown_shape != CooldownShape::linear;
  say(cools && schedule.kind != ScheduleKind::wsd,
      fmt::format("schedule.cooldown_steps, schedule.cooldown_shape: no effect with schedule.kind: {}",
                  enum_name(schedule.kind)));
  say(schedule.batch_lr_power != 0 && config.train.batch_size_warmup.empty(),
      fmt::format("schedule.batch_lr_power: {} has no effect without train.batch_size_warmup",
                  schedule.batch_lr_power));
  return notices;
}

/// Changed fields on which the rate depends.
std::vector<std::string> changes(const Config& before, const Config& config) {
  auto changed = differing_fields(before, config);
  std::erase_if(changed, [](const std::string& difference) {
    return !difference.starts_with("schedule.") && !difference.starts_with("train.steps") &&
           !difference.starts_with("optimizer.lr");
  });
  return changed;
}

}  // namespace

std::vector<std::string> schedule_notices(const Config& config) {
  auto notices = warmup_notices(config);
  for (auto& notice : decay_notices(config)) notices.push_back(std::move(notice));
  for (auto& notice : batch_notices(config)) notices.push_back(std::move(notice));
  for (auto& notice : clip_notices(config)) notices.push_back(std::move(notice));
  for (auto& notice : unused_notices(config)) notices.push_back(std::move(notice));
  return notices;
}

std::vector<std::string> changed_schedule_notices(const Config& before, const Config& config, int64_t step) {
  constexpr double kJump = 1.1;  // as a ratio: no notice for a run that was made a little longer
  if (step >= config.train.steps) return {};
  const double was = learning_rate(before, step), expected = learning_rate(before, step + 1),
               now = learning_rate(config, step + 1);
  const auto jumps = [&](double from) { return std::max(from, now) > kJump * std::min(from, now); };
  if (!jumps(was) || !jumps(expected)) return {};  // the second: the schedule itself has the jump
  return {
      fmt::format("the learning rate jumps from {:.4g} at step {} to {:.4g} at step {}, since the checkpoint is of "
                  "another schedule ({})",
                  was, step, now, step + 1, fmt::join(changes(before, config), "; "))};
}

}  // namespace olmoe
