#include "trainer/evaluator.h"

#include <algorithm>
#include <array>
#include <utility>

#include "core/error.h"
#include "parallel/agreement.h"
#include "trainer/held_out_loss.h"
#include "trainer/task_score.h"

namespace olmoe {

std::vector<PlannedTask> planned_tasks(const Config& config) {
  constexpr std::array kKinds{&held_out_losses, &scored_tasks};
  std::vector<PlannedTask> all;
  for (const auto& tasks_of : kKinds)
    for (auto& task : tasks_of(config)) all.push_back(std::move(task));
  return all;
}

void for_each_task(const Config& config, const std::function<void(const PlannedTask& task)>& work) {
  std::string problems;
  for (const auto& task : planned_tasks(config)) {
    try {
      work(task);
    } catch (const DataError& error) {
      problems += fmt::format("{}{}: {}", problems.empty() ? "" : "\n", task.name, error.what());
    }
  }
  if (!problems.empty()) throw DataError(problems);
}

Evaluator::Evaluator(const Config& config, Communicator& world) {
  agree(world, [&] {
    int task_number = 0;
    for_each_task(config, [&](const PlannedTask& task) {
      const bool reads_all = task_number++ % world.size() == world.rank();
      tasks_.push_back({task.make(task.files, reads_all), task.at_end_only});
    });
  });
}

Evaluator::Evaluator(std::vector<std::unique_ptr<EvalTask>> tasks) {
  for (auto& task : tasks) tasks_.push_back({std::move(task), /*at_end_only=*/false});
}

EvalSize Evaluator::size() const {
  EvalSize all;
  for (const auto& [task, at_end_only] : tasks_) {
    all.tokens += task->size().tokens;
    all.sequences += task->size().sequences;
  }
  return all;
}

bool Evaluator::has_tasks(bool last) const {
  return std::ranges::any_of(tasks_, [&](const Scheduled& scheduled) { return last || !scheduled.at_end_only; });
}

std::vector<std::pair<std::string, std::string>> Evaluator::fingerprints() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& [task, at_end_only] : tasks_) out.emplace_back(task->name(), task->fingerprint());
  return out;
}

std::optional<std::vector<EvalResult>> Evaluator::evaluate(StageRunner& runner, Communicator& world, bool last,
                                                           const std::function<bool()>& stop) const {
  std::vector<EvalResult> all;
  for (const auto& [task, at_end_only] : tasks_) {
    if (at_end_only && !last) continue;
    const auto results = task->run(runner, world, stop);
    if (!results) return {};
    all.insert(all.end(), results->begin(), results->end());
  }
  return all;
}

}  // namespace olmoe
