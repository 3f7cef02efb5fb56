#include "trainer/evaluator.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <filesystem>

namespace olmoe {

Evaluator::Evaluator(const Config& config) : micro_batch_(config.train.micro_batch_size) {
  const auto& data = config.data;
  for (const auto& path : config.evaluation.paths) {
    auto name = std::filesystem::path(path).stem().string();
    for (const auto& set : sets_)
      if (set.name == name) throw ConfigError(fmt::format("evaluation.paths: two sets are named {}", name));
    auto dataset = std::make_shared<TokenDataset>(std::vector{path}, data.dtype, data.sequence_length,
                                                  config.model.vocab_size);
    const int64_t all = dataset->num_instances(), most = config.evaluation.max_sequences;
    const int64_t sequences = most > 0 ? std::min(most, all) : all;
    if (sequences == 0)
      throw DataError(fmt::format("{}: has fewer than data.sequence_length = {} tokens", path, data.sequence_length));
    sets_.push_back({std::move(name), make_file_source(std::move(dataset), 0, /*shuffle=*/false), sequences});
  }
}

std::vector<Evaluator::Result> Evaluator::evaluate(StageRunner& runner, Communicator& world) const {
  std::vector<Result> results;
  for (const auto& set : sets_) results.push_back({set.name, evaluate_set(set, runner, world)});
  return results;
}

double Evaluator::evaluate_set(const Set& set, StageRunner& runner, Communicator& world) const {
  const int64_t round = micro_batch_ * world.size();
  auto totals_2 = at::zeros({2}, at::kDouble);  // cross-entropy, targets
  for (int64_t first = 0; first < set.sequences; first += round) {
    const int64_t begin = std::min(first + world.rank() * micro_batch_, set.sequences);
    const auto batch = make_batch(*set.source, begin, std::min(micro_batch_, set.sequences - begin));
    totals_2[0] += runner.evaluate(batch).cpu();
    totals_2[1] += batch.num_targets;
  }
  world.all_reduce(totals_2);
  return (totals_2[0] / totals_2[1]).item<double>();
}

}  // namespace olmoe
