#include "trainer/evaluator.h"

#include <algorithm>

#include "core/error.h"
#include "data/token_files.h"
#include "parallel/agreement.h"
#include "trainer/held_out_loss.h"

namespace olmoe {

Evaluator::Evaluator(const Config& config, Communicator& world) {
  const auto& data = config.data;
  const auto sets = evaluation_sets(config.evaluation);
  const auto rank = static_cast<size_t>(world.rank()), ranks = static_cast<size_t>(world.size());
  agree(world, [&] {
    const auto add = [&](const EvaluationSet& set, bool reads_all) {
      auto dataset =
          std::make_shared<TokenDataset>(set.paths, data.dtype, data.sequence_length, config.model.vocab_size);
      if (reads_all) dataset->read_all();
      const int64_t all = dataset->num_sequences(), most = config.evaluation.max_sequences;
      tasks_.push_back(
          std::make_unique<HeldOutLoss>(set.name, make_file_source(std::move(dataset), 0, /*shuffle=*/false),
                                        most > 0 ? std::min(most, all) : all, config.train.micro_batch_size));
    };
    std::string problems;  // of all sets: a wrong data.dtype is a problem of each
    for (size_t i = 0; i < sets.size(); ++i) {
      try {
        add(sets[i], i % ranks == rank);
      } catch (const DataError& error) {
        problems += fmt::format("{}evaluation set {}: {}", problems.empty() ? "" : "\n", sets[i].name, error.what());
      }
    }
    if (!problems.empty()) throw DataError(problems);
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
