#pragma once
#include <string>
#include <vector>

#include "trainer/config/evaluation_config.h"
#include "trainer/evaluation/task_file.h"

namespace olmoe {

/// What the model gave for the rows of a task file, in their order.
struct RowScores {
  std::vector<double> log_likelihood;         ///< of the continuation after its context, nats
  std::vector<double> domain_log_likelihood;  ///< after the context of row_domain; empty where no result needs it
  std::vector<int64_t> ids;                   ///< that were scored
};

struct TaskResult {
  std::string metric;
  double value;
};

// The results of a task. LL: a row's log-likelihood; the first of equal scores is chosen.
//   acc, len_norm, pmi_dc  share of documents whose row with the highest LL, LL / characters, or LL / LL after the
//   domain
//                          string is the label; with pmi_dc also acc_uncond, by the difference of these two
//   f1                     F1 of that choice by LL, where choice 0 is the positive class
//   ce_loss, bpb           means over documents of -LL / characters, and of -LL / bytes in bits, of the right row
//   soft, soft_log         means of the softmax over a document's scores at the label, and of its logarithm
//   perplexity             of kind documents: exp(ce_loss), where ce_loss is the mean over ids; ce_loss_by_document:
//   the
//                          mean of the documents' means; bpb: bits of all documents / their bytes

/// The results of a task, the one that it is named after first. Sources: ai2-olmo-eval; OLMES (arXiv 2406.08446).
/// Throws Error with ExitCode::non_finite for a log-likelihood that is not finite.
std::vector<TaskResult> task_results(const TaskFile& file, const RowScores& scores, TaskMetricsVersion version);

}  // namespace olmoe
