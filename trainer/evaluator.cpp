#include "trainer/evaluator.h"

#include <array>
#include <utility>

#include "core/error.h"
#include "parallel/agreement.h"
#include "trainer/held_out_loss.h"

namespace olmoe {

std::vector<PlannedTask> planned_tasks(const Config& config) {
  constexpr std::array kKinds{&held_out_losses};
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
      tasks_.push_back(task.make(task.files, /*reads_all=*/task_number++ % world.size() == world.rank()));
    });
  });
}

std::vector<std::pair<std::string, std::string>> Evaluator::fingerprints() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& task : tasks_) out.emplace_back(task->name(), task->fingerprint());
  return out;
}

std::optional<std::vector<EvalResult>> Evaluator::evaluate(StageRunner& runner, Communicator& world,
                                                           const std::function<bool()>& stop) const {
  std::vector<EvalResult> all;
  for (const auto& task : tasks_) {
    const auto results = task->run(runner, world, stop);
    if (!results) return {};
    all.insert(all.end(), results->begin(), results->end());
  }
  return all;
}

}  // namespace olmoe
