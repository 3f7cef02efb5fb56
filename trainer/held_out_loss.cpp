#include "trainer/held_out_loss.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace olmoe {

HeldOutLoss::HeldOutLoss(std::string name, std::shared_ptr<const SequenceSource> source, int64_t sequences,
                         int64_t micro_batch)
    : name_(std::move(name)), source_(std::move(source)), sequences_(sequences), micro_batch_(micro_batch) {}

std::string HeldOutLoss::fingerprint() const {
  return fmt::format("{} for {} sequences", source_->fingerprint(), sequences_);
}

std::optional<std::vector<EvalResult>> HeldOutLoss::run(StageRunner& runner, Communicator& world,
                                                        const std::function<bool()>& stop) const {
  const int64_t sequences_at_once = micro_batch_ * world.size();  // one micro-batch of each rank
  auto totals_2 = at::zeros({2}, at::kDouble);                    // cross-entropy, targets
  for (int64_t first = 0; first < sequences_; first += sequences_at_once) {
    if (stop()) return {};
    const int64_t begin = std::min(first + world.rank() * micro_batch_, sequences_);
    const auto batch = make_batch(*source_, begin, std::min(micro_batch_, sequences_ - begin));
    totals_2[0] += runner.evaluate(batch).cpu();
    totals_2[1] += batch.num_targets;
  }
  world.all_reduce(totals_2);
  return {{{name_, "loss", (totals_2[0] / totals_2[1]).item<double>()}}};
}

}  // namespace olmoe
