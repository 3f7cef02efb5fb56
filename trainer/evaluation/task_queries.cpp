#include "trainer/evaluation/task_queries.h"

#include <ATen/ops/full_like.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "core/targets.h"

namespace olmoe {
namespace {

/// Finds what rows share.
class QueryCollector {
 public:
  QueryCollector(const TaskFile& file, int64_t context) : file_(file), context_(context) {}

  /// The score of a continuation after a context, which may be known already.
  int64_t score_of(int64_t context, int64_t continuation) {
    const auto [known, is_new] = scores_.try_emplace({context, continuation}, std::ssize(ids_of_score));
    if (!is_new) return known->second;
    ids_of_score.push_back(0);
    if (file_.kind() == TaskKind::documents)
      add_windows(known->second, context, continuation);
    else
      add_row(known->second, context, continuation);
    return known->second;
  }

  std::vector<TaskQuery> queries;
  std::vector<int64_t> ids_of_score;

 private:
  void add_row(int64_t score, int64_t context, int64_t continuation) {
    const int64_t before = file_.context_length(context), count = file_.continuation_length(continuation);
    const int64_t end = before + count - 1,
                  begin = std::max<int64_t>(0, end - context_);  // nothing follows the last id
    std::vector<int32_t> prefix(static_cast<size_t>(count - 1));
    file_.read_ids(context, continuation, before, prefix);
    const auto [known, is_new] = by_prefix_.try_emplace({context, std::move(prefix)}, queries.size());
    if (is_new) queries.push_back({context, continuation, begin, end, {}});
    queries[known->second].targets.push_back({score, continuation, 0, count, before - 1 - begin});
    ids_of_score[static_cast<size_t>(score)] = count;
  }

  /// The first id of a document is predicted where the file names an id before it.
  void add_windows(int64_t score, int64_t context, int64_t continuation) {
    const int64_t before = file_.context_length(context), last = before + file_.continuation_length(continuation) - 1;
    for (int64_t begin = 0; begin < last; begin += context_) {
      const int64_t end = std::min(begin + context_, last);
      queries.push_back(
          {context, continuation, begin, end, {{score, continuation, begin + 1 - before, end - begin, 0}}});
      ids_of_score[static_cast<size_t>(score)] += end - begin;
    }
  }

  const TaskFile& file_;
  int64_t context_;
  std::map<std::pair<int64_t, int64_t>, int64_t> scores_;                 // by context and continuation
  std::map<std::pair<int64_t, std::vector<int32_t>>, size_t> by_prefix_;  // queries, by context and what follows it
};

}  // namespace

TaskQueries::TaskQueries(const TaskFile& file, int64_t context, int64_t max_tokens) : file_(file), context_(context) {
  QueryCollector collector(file, context);
  const bool documents = file.kind() == TaskKind::documents;
  const auto count = [&](int64_t before, int64_t continuation) {
    const int64_t length = file.context_length(before) + file.continuation_length(continuation) - 1;
    unshared_tokens_ += documents ? length : std::min(length, context);
    return length;
  };
  for (const auto& row : file.rows()) {
    score_of_row_.push_back(collector.score_of(row.context, row.continuation));
    if (count(row.context, row.continuation) > context && !documents) ++truncated_;
    if (file.metric() != TaskMetric::pmi_dc) continue;
    domain_score_of_row_.push_back(collector.score_of(row.domain, row.continuation));
    count(row.domain, row.continuation);
  }
  queries_ = std::move(collector.queries);
  ids_of_score_ = std::move(collector.ids_of_score);
  for (const auto& query : queries_) tokens_ += query.length();
  pack(max_tokens);
}

/// Lengths go up in steps, so that a GPU's kernels see few different shapes.
int64_t TaskQueries::padded(int64_t length) const {
  constexpr int64_t kStep = 8;
  return std::min((length + kStep - 1) / kStep * kStep, context_);
}

void TaskQueries::pack(int64_t max_tokens) {
  std::ranges::stable_sort(queries_, std::ranges::greater(), &TaskQuery::length);
  for (size_t first = 0; first < queries_.size();) {
    first_query_.push_back(first);
    const int64_t at_once = std::max<int64_t>(1, max_tokens / padded(queries_[first].length()));
    first = std::min(first + static_cast<size_t>(at_once), queries_.size());
  }
  first_query_.push_back(queries_.size());
}

PackedQueries TaskQueries::batch(int64_t index) const {
  const auto i = static_cast<size_t>(index);
  const bool none = index >= num_batches();
  const auto first = none ? 0 : first_query_[i], end = none ? 0 : first_query_[i + 1];
  PackedQueries packed;
  auto& batch = packed.batch;
  const int64_t positions = none ? 1 : padded(queries_[first].length());
  batch.ids_BS = at::zeros({static_cast<int64_t>(end - first), positions}, at::kLong);
  batch.targets_BS = at::full_like(batch.ids_BS, kIgnoredTarget);
  int64_t candidates = 0;
  for (size_t q = first; q < end; ++q)
    for (const auto& targets : queries_[q].targets) candidates += targets.count;
  packed.candidates = {at::zeros({candidates}, at::kLong), at::zeros({candidates}, at::kLong)};
  for (size_t q = first; q < end; ++q) add_query(queries_[q], static_cast<int64_t>(q - first), packed);
  return packed;
}

/// Writes a query to sequence `place` of the batch, and its candidates after those that are there.
void TaskQueries::add_query(const TaskQuery& query, int64_t place, PackedQueries& packed) const {
  const int64_t positions = packed.batch.ids_BS.size(1);
  std::vector<int32_t> ids(static_cast<size_t>(query.length()));
  file_.read_ids(query.context, query.continuation, query.begin, ids);
  std::ranges::copy(ids, packed.batch.ids_BS.data_ptr<int64_t>() + place * positions);
  auto* const position_C = packed.candidates.positions_C.data_ptr<int64_t>();
  auto* const id_C = packed.candidates.ids_C.data_ptr<int64_t>();
  for (const auto& targets : query.targets) {
    ids.resize(static_cast<size_t>(targets.count));
    file_.read_ids(query.context, targets.continuation, file_.context_length(query.context) + targets.first, ids);
    for (int64_t j = 0; j < targets.count; ++j) {
      const auto c = packed.score_C.size();
      position_C[c] = place * positions + targets.position + j;
      id_C[c] = ids[static_cast<size_t>(j)];
      packed.score_C.push_back(targets.score);
    }
  }
}

}  // namespace olmoe
