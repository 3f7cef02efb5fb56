#include "trainer/metrics.h"

#include <cmath>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <sstream>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/files/files.h"
#include "core/log.h"
#include "core/text.h"

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

/// Renames a file that holds at least one line.
void set_aside(const std::string& path) {
  namespace fs = std::filesystem;
  if (!fs::is_regular_file(path) || read_text(path).find('\n') == std::string::npos) return;
  const auto kept = unused_name(path);
  fs::rename(path, kept);
  log::warn("{} has steps that no checkpoint holds, and a new run starts: the file is kept as {}", path, kept);
}

/// True for an evaluation of `step`.
bool is_evaluation(const std::string& line, int64_t step) {
  const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("step") || json["step"] != step) return false;
  for (const auto& item : json.items())
    if (item.key().starts_with("eval/")) return true;
  return false;
}

void ensure_finite(int64_t step, const std::string& key, double value, const std::string& advice) {
  if (!std::isfinite(value))
    throw Error(fmt::format("step {}: {} is {}: not finite, so it is not written. {}", step, key, value, advice),
                ExitCode::non_finite);
}

constexpr auto kAfterStep =
    "Nothing is saved. Start the run again with a lower optimizer.lr: it resumes from its newest checkpoint";

/// The step may be saved already: every later start would evaluate it again.
std::string after_evaluation(const std::string& run_folder, int64_t step) {
  return fmt::format(
      "If {}/checkpoints has step {}, move that checkpoint away and start again with a lower optimizer.lr: the "
      "run then resumes from the checkpoint before it. If training went well, check this evaluation set, or "
      "remove it from evaluation.paths, evaluation.sets or evaluation.tasks",
      run_folder, step);
}

}  // namespace

std::string metric_key(const EvalResult& result) { return fmt::format("eval/{}/{}", result.task, result.metric); }

std::map<int64_t, double> metric_by_step(const std::string& path, const std::string& key) {
  std::map<int64_t, double> out;
  if (!std::filesystem::is_regular_file(path)) return out;
  std::istringstream file(read_text(path));
  for (std::string line; std::getline(file, line);) {
    if (line.find(key) == std::string::npos) continue;
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_object() && json.contains("step") && json["step"].is_number_integer() && json.contains(key) &&
        json[key].is_number())
      out[json["step"].get<int64_t>()] = json[key].get<double>();
  }
  return out;
}

MetricsLog::MetricsLog(const std::string& run_folder, bool writes, int64_t step, int64_t train_steps,
                       int64_t console_every, bool new_run)
    : run_folder_(run_folder), train_steps_(train_steps), console_every_(console_every) {
  if (!writes) return;
  const auto path = run_folder + "/metrics.jsonl";
  if (step == 0 || new_run) set_aside(path);
  file_ = std::make_unique<JsonLinesFile>(path, step);
  has_evaluation_ = is_evaluation(file_->last_kept(), step);
}

void MetricsLog::append(const JsonLine& line) {
  if (!file_) return;
  const bool waited = file_->waiting() > 0;
  file_->write(line);
  if (!waited && file_->waiting() > 0)
    log::warn("{}. Training goes on; up to {} lines of metrics wait in memory until they can be written",
              file_->problem(), kMostWaiting);
  if (waited && file_->waiting() == 0) log::info("{}/metrics.jsonl is written again: no line is lost", run_folder_);
}

std::string MetricsLog::problem() const {
  return file_ && file_->waiting() > kMostWaiting ? file_->problem() : std::string();
}

std::string MetricsLog::close() {
  const auto left = file_ ? file_->flush() : 0;
  return left == 0 ? std::string() : fmt::format("{}: {} lines of metrics are lost", file_->problem(), left);
}

void MetricsLog::write(const StepMetrics& m) {
  const std::initializer_list<std::pair<const char*, double>> numbers{
      {"loss", m.loss},
      {"load_balancing_loss", m.load_balancing_loss},
      {"router_z_loss", m.router_z_loss},
      {"grad_norm", m.grad_norm},
      {"max_expert_load", m.router.max_load},
      {"lr", m.lr},
      {"router_entropy", m.router_entropy},
      {"expert_load_variation", m.router.load_variation}};
  for (const auto& [key, value] : numbers) ensure_finite(m.step, key, value, kAfterStep);
  if (m.output_z_loss) ensure_finite(m.step, "output_z_loss", *m.output_z_loss, kAfterStep);
  if (!file_) return;
  JsonLine line;
  line.add("step", m.step)
      .add("tokens", m.tokens)
      .add("loss", m.loss)
      .add("load_balancing_loss", m.load_balancing_loss)
      .add("router_z_loss", m.router_z_loss)
      .add("max_expert_load", m.router.max_load)
      .add("expert_load_variation", m.router.load_variation)
      .add("dead_experts", m.router.dead_experts)
      .add("router_entropy", m.router_entropy)
      .add("dropped_assignments", m.dropped_assignments)
      .add("grad_norm", m.grad_norm)
      .add("lr", m.lr)
      .add("tokens_per_s", m.tokens_per_s);
  if (m.output_z_loss) line.add("output_z_loss", *m.output_z_loss);
  if (m.peak_memory_bytes) line.add("peak_memory_bytes", *m.peak_memory_bytes);
  for (const auto& [key, value] : m.traffic) line.add(key, value);
  if (m.host_syncs) line.add("host_syncs", *m.host_syncs);
  if (m.masked_sequences > 0) line.add("masked_sequences", m.masked_sequences);
  if (m.rank_counts) line.add("expert_counts", m.rank_counts->counts, m.rank_counts->shape);
  if (m.checkpoint_failures > 0) line.add("checkpoint_failures", m.checkpoint_failures);
  append(line);
  for (const auto& warning : m.router.warnings) log::warn("step {}: {}", m.step, warning);
  const double step_s =
      m.tokens_per_s > 0 ? static_cast<double>(m.tokens) / static_cast<double>(m.step) / m.tokens_per_s : 0;
  seconds_per_step_ = seconds_per_step_ > 0 ? 0.95 * seconds_per_step_ + 0.05 * step_s : step_s;
  masked_ += m.masked_sequences;
  if (m.step % console_every_ != 0 && m.step != train_steps_) return;
  log::info("step {}/{}  tokens {}  loss {:.4f}  lb {:.3f}  z {:.3f}  grad {:.3f}  lr {:.2e}  {} tok/s{}{}  eta {}",
            m.step, train_steps_, count(m.tokens), m.loss, m.load_balancing_loss, m.router_z_loss, m.grad_norm, m.lr,
            count(std::llround(m.tokens_per_s)),
            m.peak_memory_bytes ? "  mem " + describe_size(*m.peak_memory_bytes) : "",
            masked_ > 0 ? "  masked " + counted(masked_, "sequence") : "",
            duration(static_cast<double>(train_steps_ - m.step) * seconds_per_step_));
  masked_ = 0;
}

void MetricsLog::write(int64_t step, const std::vector<EvalResult>& results) {
  for (const auto& result : results)
    ensure_finite(step, metric_key(result), result.value, after_evaluation(run_folder_, step));
  if (!file_ || results.empty()) return;
  JsonLine line;
  line.add("step", step);
  std::string losses;
  std::vector<std::pair<std::string, std::string>> tasks;  // with their results
  for (const auto& result : results) {
    line.add(metric_key(result), result.value);
    if (result.metric == "loss") {
      losses += fmt::format("  {} {:.4f}", result.task, result.value);
      continue;
    }
    if (tasks.empty() || tasks.back().first != result.task) tasks.emplace_back(result.task, "");
    tasks.back().second += fmt::format("  {} {:.6g}", result.metric, result.value);
  }
  append(line);
  if (!losses.empty()) log::info("step {}/{}  held-out loss:{}", step, train_steps_, losses);
  for (const auto& [task, values] : tasks) log::info("step {}/{}  task {}:{}", step, train_steps_, task, values);
}

}  // namespace olmoe
