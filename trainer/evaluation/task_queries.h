// Shapes: B queries of S positions, C candidates of a batch.
#pragma once
#include <cstdint>
#include <vector>

#include "data/batch.h"
#include "trainer/evaluation/task_file.h"

namespace olmoe {

/// Ids whose log-probabilities a query gives, and the score that they add up to.
struct QueryTargets {
  int64_t score;
  int64_t continuation;
  int64_t first, count;  ///< ids of the continuation
  int64_t position;      ///< of the query at which the first of them is predicted; the others follow
};

/// A distinct sequence of tokens that the model sees: ids [begin, end) of a context followed by a continuation.
struct TaskQuery {
  int64_t context, continuation;
  int64_t begin, end;
  std::vector<QueryTargets> targets;
  int64_t length() const { return end - begin; }
};

/// Queries as one micro-batch, and the score of each candidate.
struct PackedQueries {
  /// Right-padded with id 0, without targets. Padding is routed to experts as other tokens are, and no score depends on
  /// it: attention is causal, and experts drop nothing in Phase::score.
  Batch batch;
  Candidates candidates;
  std::vector<int64_t> score_C;
};

/// The sequences that score a task file. A row's log-likelihood is that of its continuation after its context, of which
/// the model sees the last ids where both are longer than `context`. Equal rows are scored once, and rows of one
/// context that differ in their last id alone, as the lettered answers of a question do, share a query. A document is
/// cut into windows of `context` ids, in which nothing is seen of the windows before but their last id.
class TaskQueries {
 public:
  /// Micro-batches have at most `max_tokens` tokens, padding included, but at least one query. They are in falling
  /// order of length: memory that does not suffice is noticed at the start. `file` must outlive this object.
  TaskQueries(const TaskFile& file, int64_t context, int64_t max_tokens);

  int64_t num_batches() const { return static_cast<int64_t>(first_query_.size()) - 1; }
  /// A micro-batch; of an index from num_batches() on one without queries. Throws DataError as TaskFile::read_ids().
  PackedQueries batch(int64_t index) const;
  /// Distinct log-likelihoods that are computed.
  int64_t num_scores() const { return static_cast<int64_t>(ids_of_score_.size()); }
  /// The score of each row; and of its continuation after the context of row_domain, empty where no result needs it.
  const std::vector<int64_t>& score_of_row() const { return score_of_row_; }
  const std::vector<int64_t>& domain_score_of_row() const { return domain_score_of_row_; }
  /// Of each score, the ids that it adds up.
  const std::vector<int64_t>& ids_of_score() const { return ids_of_score_; }
  int64_t num_queries() const { return static_cast<int64_t>(queries_.size()); }
  /// Tokens of the queries without padding, and what they were with a query for each row.
  int64_t tokens() const { return tokens_; }
  int64_t unshared_tokens() const { return unshared_tokens_; }
  /// Rows whose context lost ids.
  int64_t truncated() const { return truncated_; }

 private:
  void pack(int64_t max_tokens);
  int64_t padded(int64_t length) const;
  void add_query(const TaskQuery& query, int64_t place, PackedQueries& packed) const;

  const TaskFile& file_;
  int64_t context_;
  std::vector<TaskQuery> queries_;   // in falling order of length
  std::vector<size_t> first_query_;  // of each micro-batch; at the end the number of queries
  std::vector<int64_t> score_of_row_, domain_score_of_row_, ids_of_score_;
  int64_t tokens_ = 0, unshared_tokens_ = 0, truncated_ = 0;
};

}  // namespace olmoe
