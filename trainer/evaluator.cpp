#include "trainer/evaluator.h"

#include <ATen/ops/zeros.h>

#include <algorithm>

#include "core/error.h"
#include "parallel/agreement.h"

namespace olmoe {

Evaluator::Evaluator(const Config& config, Communicator& world) : micro_batch_(config.train.micro_batch_size) {
  const auto& data = config.data;
  const auto sets = evaluation_sets(config.evaluation);
  const auto rank = static_cast<size_t>(world.rank()), ranks = static_cast<size_t>(world.size());
  agree(world, [&] {
    for (size_t i = 0; i < sets.size(); ++i) {
      auto dataset =
          std::make_shared<TokenDataset>(sets[i].paths, data.dtype, data.sequence_length, config.model.vocab_size);
      if (i % ranks == rank) dataset->read_all();
      const int64_t all = dataset->num_instances(), most = config.evaluation.max_sequences;
      sets_.push_back({sets[i].name, make_file_source(std::move(dataset), 0, /*shuffle=*/false),
                       most > 0 ? std::min(most, all) : all});
    }
  });
}

std::vector<std::pair<std::string, std::string>> Evaluator::fingerprints() const {
  std::vector<std::pair<std::string, std::string>> out;
  for (const auto& set : sets_)
    out.emplace_back(set.name, fmt::format("{} for {} sequences", set.source->fingerprint(), set.sequences));
  return out;
}

std::optional<std::vector<Evaluator::Result>> Evaluator::evaluate(StageRunner& runner, Communicator& world,
                                                                  const std::function<bool()>& stop) const {
  std::vector<Result> results;
  for (const auto& set : sets_) {
    const auto loss = evaluate_set(set, runner, world, stop);
    if (!loss) return {};
    results.push_back({set.name, *loss});
  }
  return results;
}

std::optional<double> Evaluator::evaluate_set(const Set& set, StageRunner& runner, Communicator& world,
                                              const std::function<bool()>& stop) const {
  const int64_t round = micro_batch_ * world.size();
  auto totals_2 = at::zeros({2}, at::kDouble);  // cross-entropy, targets
  for (int64_t first = 0; first < set.sequences; first += round) {
    if (stop()) return {};
    const int64_t begin = std::min(first + world.rank() * micro_batch_, set.sequences);
    const auto batch = make_batch(*set.source, begin, std::min(micro_batch_, set.sequences - begin));
    totals_2[0] += runner.evaluate(batch).cpu();
    totals_2[1] += batch.num_targets;
  }
  world.all_reduce(totals_2);
  return (totals_2[0] / totals_2[1]).item<double>();
}

}  // namespace olmoe
