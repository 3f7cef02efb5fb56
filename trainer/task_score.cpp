#include "trainer/task_score.h"

#include <ATen/ops/zeros.h>

#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "parallel/agreement.h"
#include "trainer/evaluation/task_metrics.h"

namespace olmoe {
namespace {

/// Runs `work`, which makes no collective call, on all ranks. Returns why it failed on any of them, on all; none where
/// it did not. Rethrows what says that the weights are not finite. Collective over world.
std::optional<std::string> failure_of(Communicator& world, const std::function<void()>& work) {
  try {
    agree(world, work);
    return {};
  } catch (const Error& error) {
    if (!is_agreed(error) || error.code() == ExitCode::non_finite) throw;
    return error.what();
  }
}

}  // namespace

TaskScore::TaskScore(std::unique_ptr<const TaskFile> file, const Options& options)
    : file_(std::move(file)), options_(options), queries_(*file_, options.context, options.max_tokens) {}

std::string TaskScore::fingerprint() const {
  return fmt::format("{} in a context of {}, {}", file_->fingerprint(), options_.context, enum_name(options_.version));
}

/// The log-probability of each candidate, in host memory. What a forward throws is no failure of the task alone: other
/// ranks may wait in its collectives.
at::Tensor TaskScore::score(StageRunner& runner, const PackedQueries& packed) const {
  try {
    return runner.score(packed.batch, packed.candidates).cpu();
  } catch (...) {
    log::error("evaluation task {}: its forward failed", name());
    throw;
  }
}

std::optional<std::vector<EvalResult>> TaskScore::run(StageRunner& runner, Communicator& world,
                                                      const std::function<bool()>& stop) const {
  auto scores = at::zeros({queries_.num_scores()}, at::kDouble);
  auto* const sums = scores.data_ptr<double>();
  for (int64_t first = 0; first < queries_.num_batches(); first += world.size()) {
    if (stop()) return {};
    PackedQueries packed;
    if (const auto why = failure_of(world, [&] { packed = queries_.batch(first + world.rank()); })) return failed(*why);
    const auto log_probs_C = score(runner, packed);
    for (size_t c = 0; c < packed.score_C.size(); ++c)
      sums[packed.score_C[c]] += log_probs_C.const_data_ptr<double>()[c];
  }
  world.all_reduce(scores);
  std::vector<EvalResult> out;
  if (const auto why = failure_of(world, [&] { out = results(scores); })) return failed(*why);
  return out;
}

std::vector<EvalResult> TaskScore::results(const at::Tensor& scores) const {
  const auto* const values = scores.const_data_ptr<double>();
  RowScores of_rows;
  for (const int64_t score : queries_.score_of_row()) {
    of_rows.log_likelihood.push_back(values[score]);
    of_rows.ids.push_back(queries_.ids_of_score()[static_cast<size_t>(score)]);
  }
  for (const int64_t score : queries_.domain_score_of_row()) of_rows.domain_log_likelihood.push_back(values[score]);
  std::vector<EvalResult> out;
  try {
    for (const auto& [metric, value] : task_results(*file_, of_rows, options_.version))
      out.push_back({name(), metric, value});
  } catch (const Error& error) {
    throw Error(fmt::format("evaluation task {}: {}", name(), error.what()), error.code());
  }
  out.push_back({name(), "documents", static_cast<double>(file_->num_documents())});
  out.push_back({name(), "truncated", static_cast<double>(queries_.truncated())});
  if (options_.without_drops) out.push_back({name(), "without_drops", 1});
  return out;
}

/// On all ranks, whose reasons are the same.
std::vector<EvalResult> TaskScore::failed(const std::string& why) const {
  log::write_once(log::Level::error, fmt::format("evaluation task {} failed, and training goes on: {}", name(), why));
  return {{name(), "failed", 1}};
}

std::vector<PlannedTask> scored_tasks(const Config& config) {
  std::vector<PlannedTask> tasks;
  for (const auto& [name, path, at_end_only] : evaluation_tasks(config.evaluation)) {
    const auto make = [&config](const std::vector<std::string>& here, bool /*reads_all*/) -> std::unique_ptr<EvalTask> {
      const auto& evaluation = config.evaluation;
      auto file = std::make_unique<const TaskFile>(here.at(0), config.model.vocab_size, evaluation.context);
      const TaskScore::Options options{.context = evaluation.context,
                                       .max_tokens = config.train.micro_batch_size * config.data.sequence_length,
                                       .version = evaluation.task_metrics_version,
                                       .without_drops = config.model.capacity_factor.has_value()};
      return std::make_unique<TaskScore>(std::move(file), options);
    };
    tasks.push_back({"evaluation task " + name, {path}, make, at_end_only});
  }
  return tasks;
}

}  // namespace olmoe
