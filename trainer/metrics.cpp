#include "trainer/metrics.h"

#include <cmath>
#include <filesystem>

#include "core/files.h"
#include "core/log.h"
#include "trainer/memory_plan.h"

namespace olmoe {
namespace {

std::string duration(double seconds) {
  const auto total = static_cast<int64_t>(std::llround(seconds));
  return total >= 3600 ? fmt::format("{}:{:02}:{:02}", total / 3600, total / 60 % 60, total % 60)
                       : fmt::format("{}:{:02}", total / 60, total % 60);
}

std::string count(int64_t n) {
  if (n >= 10'000'000'000) return fmt::format("{:.1f}B", static_cast<double>(n) / 1e9);
  if (n >= 10'000'000) return fmt::format("{:.1f}M", static_cast<double>(n) / 1e6);
  return n >= 10'000 ? fmt::format("{:.1f}k", static_cast<double>(n) / 1e3) : fmt::format("{}", n);
}

/// Renames a file that holds a whole line: a run that never came to its first step leaves none.
void set_aside(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_regular_file(path) || read_text(path).find('\n') == std::string::npos) return;
  std::string kept;
  for (int n = 1; kept.empty() || fs::exists(kept); ++n) kept = fmt::format("{}.old-{}", path, n);
  fs::rename(path, kept);
  log::warn("{} has steps that no checkpoint holds, and the run starts anew: it is kept as {}", path, kept);
}

}  // namespace

MetricsLog::MetricsLog(const std::string& run_folder, bool writes, int64_t step, int64_t train_steps,
                       int64_t console_every)
    : train_steps_(train_steps), console_every_(console_every) {
  if (!writes) return;
  const auto path = run_folder + "/metrics.jsonl";
  if (step == 0) set_aside(path);
  file_ = std::make_unique<JsonLinesFile>(path, step);
}

void MetricsLog::write(const StepMetrics& m) {
  if (!file_) return;
  JsonLine line;
  line.add("step", m.step)
      .add("tokens", m.tokens)
      .add("loss", m.loss)
      .add("load_balancing_loss", m.load_balancing_loss)
      .add("router_z_loss", m.router_z_loss)
      .add("max_expert_load", m.max_expert_load)
      .add("dropped_assignments", m.dropped_assignments)
      .add("grad_norm", m.grad_norm)
      .add("lr", m.lr)
      .add("tokens_per_s", m.tokens_per_s);
  if (m.peak_memory_bytes) line.add("peak_memory_bytes", *m.peak_memory_bytes);
  for (const auto& [key, value] : m.traffic) line.add(key, value);
  if (m.host_syncs) line.add("host_syncs", *m.host_syncs);
  file_->write(line);
  const double step_s =
      m.tokens_per_s > 0 ? static_cast<double>(m.tokens) / static_cast<double>(m.step) / m.tokens_per_s : 0;
  seconds_per_step_ = seconds_per_step_ > 0 ? 0.95 * seconds_per_step_ + 0.05 * step_s : step_s;
  if (m.step % console_every_ != 0 && m.step != train_steps_) return;
  log::info("step {}/{}  tokens {}  loss {:.4f}  lb {:.3f}  z {:.3f}  grad {:.3f}  lr {:.2e}  {} tok/s{}  eta {}",
            m.step, train_steps_, count(m.tokens), m.loss, m.load_balancing_loss, m.router_z_loss, m.grad_norm, m.lr,
            count(std::llround(m.tokens_per_s)),
            m.peak_memory_bytes ? "  mem " + describe_size(*m.peak_memory_bytes) : "",
            duration(static_cast<double>(train_steps_ - m.step) * seconds_per_step_));
}

void MetricsLog::write(int64_t step, const std::vector<Evaluator::Result>& results) {
  if (!file_ || results.empty()) return;
  JsonLine line;
  line.add("step", step);
  std::string text;
  for (const auto& result : results) {
    line.add(fmt::format("eval/{}/loss", result.name), result.loss);
    text += fmt::format("  {} {:.4f}", result.name, result.loss);
  }
  file_->write(line);
  log::info("step {}/{}  held-out loss:{}", step, train_steps_, text);
}

}  // namespace olmoe
