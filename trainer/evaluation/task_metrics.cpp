#include "trainer/evaluation/task_metrics.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/error.h"

namespace olmoe {
namespace {

constexpr double kBitsPerNat = std::numbers::log2e;

/// Sums over the documents of a task, of which each result is made.
struct Sums {
  double correct = 0, correct_by_difference = 0;
  double ce_loss = 0, bpb = 0, soft = 0, soft_log = 0;
  double true_positives = 0, false_positives = 0, false_negatives = 0;
};

class Scorer {
 public:
  Scorer(const TaskFile& file, const RowScores& scores, TaskMetricsVersion version)
      : file_(file), scores_(scores), version_(version) {}

  Sums add_documents() const {
    Sums sums;
    size_t first = 0;
    for (int64_t d = 0; d < file_.num_documents(); ++d) {
      const auto rows = file_.rows_of(d);
      add_gold(rows[static_cast<size_t>(file_.label(d))], first + static_cast<size_t>(file_.label(d)), sums);
      if (file_.kind() == TaskKind::multiple_choice) add_choice(d, rows, first, sums);
      first += rows.size();
    }
    return sums;
  }

 private:
  double chars(const TaskRow& row) const {
    return static_cast<double>(version_ == TaskMetricsVersion::v1 ? row.chars_v1 : row.chars);
  }
  double bytes(const TaskRow& row) const {
    return static_cast<double>(version_ == TaskMetricsVersion::v1 ? row.bytes_v1 : row.bytes);
  }

  void add_gold(const TaskRow& row, size_t index, Sums& sums) const {
    sums.ce_loss -= scores_.log_likelihood[index] / chars(row);
    sums.bpb -= scores_.log_likelihood[index] / bytes(row) * kBitsPerNat;
  }

  /// By what a row is chosen.
  double score(const TaskRow& row, size_t index) const {
    const double log_likelihood = scores_.log_likelihood[index];
    if (file_.metric() == TaskMetric::len_norm) return log_likelihood / chars(row);
    if (file_.metric() != TaskMetric::pmi_dc) return log_likelihood;
    const double domain = scores_.domain_log_likelihood[index];
    if (domain == 0)
      throw Error(
          fmt::format("document {}, choice {}: pmi_dc divides by its log-likelihood after the domain string, "
                      "which is 0",
                      row.document, row.choice));
    return log_likelihood / domain;
  }

  void add_choice(int64_t document, std::span<const TaskRow> rows, size_t first, Sums& sums) const {
    const auto label = file_.label(document);
    std::vector<double> by_score, by_difference;
    for (size_t i = 0; i < rows.size(); ++i) by_score.push_back(score(rows[i], first + i));
    const auto chosen = std::ranges::max_element(by_score) - by_score.begin();
    sums.correct += chosen == label ? 1 : 0;
    sums.true_positives += chosen == 0 && label == 0 ? 1 : 0;
    sums.false_positives += chosen == 0 && label != 0 ? 1 : 0;
    sums.false_negatives += chosen != 0 && label == 0 ? 1 : 0;
    const double highest = by_score[static_cast<size_t>(chosen)];
    double exponentials = 0;
    for (const double value : by_score) exponentials += std::exp(value - highest);
    const double log_share = by_score[static_cast<size_t>(label)] - highest - std::log(exponentials);
    sums.soft += std::exp(log_share);
    sums.soft_log += log_share;
    if (file_.metric() != TaskMetric::pmi_dc) return;
    for (size_t i = 0; i < rows.size(); ++i)
      by_difference.push_back(scores_.log_likelihood[first + i] - scores_.domain_log_likelihood[first + i]);
    sums.correct_by_difference += std::ranges::max_element(by_difference) - by_difference.begin() == label ? 1 : 0;
  }

  const TaskFile& file_;
  const RowScores& scores_;
  TaskMetricsVersion version_;
};

void ensure_finite(const TaskFile& file, const std::vector<double>& log_likelihoods, const char* after) {
  for (size_t r = 0; r < log_likelihoods.size(); ++r)
    if (!std::isfinite(log_likelihoods[r]))
      throw Error(fmt::format("document {}, choice {}: its log-likelihood after {} is {}: weights that are finite give "
                              "finite ones",
                              file.rows()[r].document, file.rows()[r].choice, after, log_likelihoods[r]),
                  ExitCode::non_finite);
}

std::vector<TaskResult> document_results(const TaskFile& file, const RowScores& scores) {
  double ids = 0, bytes = 0, nats = 0, of_documents = 0;
  for (size_t r = 0; r < scores.ids.size(); ++r) {
    const auto of_row = static_cast<double>(scores.ids[r]);
    ids += of_row;
    bytes += static_cast<double>(file.rows()[r].bytes);
    nats -= scores.log_likelihood[r];
    of_documents -= scores.log_likelihood[r] / of_row;
  }
  return {{"perplexity", std::exp(nats / ids)},
          {"ce_loss", nats / ids},
          {"ce_loss_by_document", of_documents / static_cast<double>(file.num_documents())},
          {"bpb", nats / bytes * kBitsPerNat}};
}

}  // namespace

std::vector<TaskResult> task_results(const TaskFile& file, const RowScores& scores, TaskMetricsVersion version) {
  const size_t rows = file.rows().size(), of_domain = file.metric() == TaskMetric::pmi_dc ? rows : 0;
  ENSURE(scores.log_likelihood.size() == rows && scores.ids.size() == rows &&
             scores.domain_log_likelihood.size() == of_domain,
         "{} scores and {} of domain strings for {} rows", scores.log_likelihood.size(),
         scores.domain_log_likelihood.size(), rows);
  ensure_finite(file, scores.log_likelihood, "its context");
  ensure_finite(file, scores.domain_log_likelihood, "its domain string");
  if (file.kind() == TaskKind::documents) return document_results(file, scores);
  const auto sums = Scorer(file, scores, version).add_documents();
  const auto documents = static_cast<double>(file.num_documents());
  const TaskResult ce_loss{"ce_loss", sums.ce_loss / documents}, bpb{"bpb", sums.bpb / documents};
  if (file.metric() == TaskMetric::ce_loss) return {ce_loss, bpb};
  if (file.metric() == TaskMetric::bpb) return {bpb, ce_loss};
  const double wrong = sums.false_positives + sums.false_negatives, right = 2 * sums.true_positives;
  const double f1 = right > 0 ? right / (right + wrong) : 0;
  const bool is_f1 = file.metric() == TaskMetric::f1;
  std::vector<TaskResult> out{
      {kTaskMetricNames.at(static_cast<size_t>(file.metric())), is_f1 ? f1 : sums.correct / documents}};
  if (file.metric() == TaskMetric::pmi_dc) out.push_back({"acc_uncond", sums.correct_by_difference / documents});
  out.insert(out.end(), {ce_loss, bpb, {"soft", sums.soft / documents}, {"soft_log", sums.soft_log / documents}});
  return out;
}

}  // namespace olmoe
