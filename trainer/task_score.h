#pragma once
#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "trainer/config/config.h"
#include "trainer/eval_task.h"
#include "trainer/evaluation/task_file.h"
#include "trainer/evaluation/task_queries.h"

namespace olmoe {

/// The results of a task file: eval/NAME/METRIC (trainer/evaluation/task_metrics.h), with the numbers of documents and
/// of rows whose context lost ids. A task that fails on a rank between two forwards, say because its file is gone, has
/// the one result eval/NAME/failed: 1; a log-likelihood that is not finite is an Error on all ranks.
class TaskScore final : public EvalTask {
 public:
  struct Options {
    int64_t context;     ///< ids that the model sees
    int64_t max_tokens;  ///< of a micro-batch
    TaskMetricsVersion version = TaskMetricsVersion::v1;
    bool without_drops = false;  ///< whether the model drops assignments in training, which no score does; a result
  };
  TaskScore(std::unique_ptr<const TaskFile> file, const Options& options);
  const std::string& name() const override { return file_->name(); }
  std::string fingerprint() const override;
  EvalSize size() const override { return {queries_.tokens(), queries_.num_queries()}; }
  std::optional<std::vector<EvalResult>> run(StageRunner& runner, Communicator& world,
                                             const std::function<bool()>& stop) const override;

 private:
  at::Tensor score(StageRunner& runner, const PackedQueries& packed) const;
  std::vector<EvalResult> results(const at::Tensor& scores) const;
  std::vector<EvalResult> failed(const std::string& why) const;

  std::unique_ptr<const TaskFile> file_;
  Options options_;
  TaskQueries queries_;
};

/// The tasks of evaluation_tasks(). They refer to `config`.
std::vector<PlannedTask> scored_tasks(const Config& config);

}  // namespace olmoe
