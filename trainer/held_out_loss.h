#pragma once
#include <memory>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "trainer/config/config.h"
#include "trainer/eval_task.h"

namespace olmoe {

/// Mean cross-entropy of a held-out token set, in file order: eval/NAME/loss, in nats per target token.
class HeldOutLoss final : public EvalTask {
 public:
  /// The first `sequences` of `source`, in micro-batches of `micro_batch` sequences.
  HeldOutLoss(std::string name, std::shared_ptr<const SequenceSource> source, int64_t sequences, int64_t micro_batch);
  const std::string& name() const override { return name_; }
  std::string fingerprint() const override;
  EvalSize size() const override;
  std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator& world,
                                             const std::function<bool()>& stop) const override;

 private:
  std::string name_;
  std::shared_ptr<const SequenceSource> source_;
  int64_t sequences_, micro_batch_;
};

/// The losses of evaluation_sets(). They refer to `config`.
std::vector<PlannedTask> held_out_losses(const Config& config);

}  // namespace olmoe
