#include "trainer/held_out_loss.h"

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "data/documents.h"
#include "data/token_files.h"

namespace olmoe {

HeldOutLoss::HeldOutLoss(std::string name, std::shared_ptr<const SequenceSource> source, int64_t sequences,
                         int64_t micro_batch)
    : name_(std::move(name)), source_(std::move(source)), sequences_(sequences), micro_batch_(micro_batch) {}

std::string HeldOutLoss::fingerprint() const {
  return fmt::format("{} for {} sequences", source_->fingerprint(), sequences_);
}

EvalSize HeldOutLoss::size() const {
  const int64_t sequences = source_->num_sequences();
  return {sequences * source_->sequence_length(), sequences};
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

std::vector<PlannedTask> held_out_losses(const Config& config) {
  std::vector<PlannedTask> tasks;
  for (const auto& [name, paths] : evaluation_sets(config.evaluation)) {
    const auto make = [&config, name, num_files = paths.size()](const std::vector<std::string>& here, bool reads_all) {
      // A whole sequence may be in a file that is missing here.
      const int64_t length = here.size() == num_files ? config.data.sequence_length : 1;
      auto dataset = std::make_shared<TokenDataset>(here, config.data.dtype, length, config.model.vocab_size);
      if (reads_all) dataset->read_all();
      const int64_t all = dataset->num_sequences(), most = config.evaluation.max_sequences;
      std::shared_ptr<const DocumentTables> tables;
      if (config.data.document_mask == DocumentMask::table) tables = std::make_shared<DocumentTables>(*dataset);
      std::shared_ptr<const SequenceSource> source =
          make_file_source(std::move(dataset), 0, /*shuffle=*/false, {}, std::move(tables));
      if (config.data.eos_id) source = make_eos_documents(std::move(source), *config.data.eos_id);
      return std::make_unique<HeldOutLoss>(name, std::move(source), most > 0 ? std::min(most, all) : all,
                                           config.train.micro_batch_size);
    };
    tasks.push_back({"evaluation set " + name, paths, make});
  }
  return tasks;
}

}  // namespace olmoe
