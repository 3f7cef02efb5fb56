// The token sequences that score a file of requests: what is cut, what is shared, how they are packed.
#include "trainer/evaluation/task_queries.h"

#include <algorithm>
#include <map>

#include "core/targets.h"
#include "support/catch.h"
#include "support/task_files.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kVocab = 50;

/// A task that was written, opened and cut into queries.
struct Cut {
  Cut(const MadeTask& task, int64_t context, int64_t max_tokens = 1000)
      : file(task.write(folder), kVocab, context), queries(file, context, max_tokens) {}
  TempFolder folder;
  TaskFile file;
  TaskQueries queries;
};

Ids counted_ids(int32_t first, int32_t count) {
  Ids ids;
  for (int32_t i = 0; i < count; ++i) ids.push_back(first + i);
  return ids;
}

/// What is asked of the model for one score: pairs of the ids that it sees, and the id whose log-probability is taken.
using Asked = std::vector<std::pair<Ids, int32_t>>;

/// By score, of all micro-batches; checks their shapes on the way.
std::vector<Asked> asked_of(const TaskQueries& queries, int64_t max_tokens) {
  std::vector<Asked> asked(static_cast<size_t>(queries.num_scores()));
  int64_t sequences = 0, longest = INT64_MAX;
  for (int64_t i = 0; i < queries.num_batches(); ++i) {
    const auto [batch, candidates, score_C] = queries.batch(i);
    const int64_t B = batch.ids_BS.size(0), S = batch.ids_BS.size(1);
    CHECK((B == 1 || B * S <= max_tokens));
    CHECK(S <= longest);
    longest = S;
    sequences += B;
    CHECK((batch.targets_BS != kIgnoredTarget).sum().item<int64_t>() == 0);
    CHECK_FALSE(batch.bounds.defined());
    REQUIRE(candidates.ids_C.size(0) == std::ssize(score_C));
    for (size_t c = 0; c < score_C.size(); ++c) {
      const int64_t position = candidates.positions_C.const_data_ptr<int64_t>()[c];
      const auto* const row = batch.ids_BS.const_data_ptr<int64_t>() + position / S * S;
      Ids seen;
      for (int64_t s = 0; s <= position % S; ++s) seen.push_back(static_cast<int32_t>(row[s]));
      const auto id = static_cast<int32_t>(candidates.ids_C.const_data_ptr<int64_t>()[c]);
      asked.at(static_cast<size_t>(score_C[c])).emplace_back(std::move(seen), id);
    }
  }
  CHECK(sequences == queries.num_queries());
  return asked;
}

Asked asked_of_row(const Cut& cut, size_t row) {
  return asked_of(cut.queries, 1000).at(static_cast<size_t>(cut.queries.score_of_row().at(row)));
}

}  // namespace

TEST_CASE("each id of a continuation is predicted from all ids before it") {
  const Cut cut(small_task(), 16);
  CHECK(cut.queries.num_scores() == 4);
  CHECK(cut.queries.num_queries() == 4);
  CHECK(cut.queries.truncated() == 0);
  CHECK(asked_of_row(cut, 0) == Asked{{{1, 2, 3}, 4}, {{1, 2, 3, 4}, 5}});
  CHECK(asked_of_row(cut, 1) == Asked{{{1, 2, 3}, 6}});
  CHECK(asked_of_row(cut, 2) == Asked{{{7, 8}, 6}});
  CHECK(asked_of_row(cut, 3) == Asked{{{7, 8}, 9}, {{7, 8, 9}, 10}, {{7, 8, 9, 10}, 11}});
  CHECK(cut.queries.ids_of_score().at(3) == 3);
  CHECK(cut.queries.tokens() == 4 + 3 + 2 + 4);
  CHECK(cut.queries.unshared_tokens() == cut.queries.tokens());
  CHECK(cut.queries.domain_score_of_row().empty());
}

TEST_CASE("contexts lose ids from the left, never continuations") {
  MadeTask task;
  task.add(0, {{counted_ids(1, 5), {21, 22}}, {counted_ids(1, 6), {21, 22}}, {counted_ids(1, 5), counted_ids(20, 6)}});
  const Cut cut(task, 6);
  CHECK(cut.queries.truncated() == 2);
  CHECK(asked_of_row(cut, 0) == Asked{{{1, 2, 3, 4, 5}, 21}, {{1, 2, 3, 4, 5, 21}, 22}});
  CHECK(asked_of_row(cut, 1) == Asked{{{2, 3, 4, 5, 6}, 21}, {{2, 3, 4, 5, 6, 21}, 22}});
  const auto longest = asked_of_row(cut, 2);
  REQUIRE(longest.size() == 6);
  CHECK(longest.front() == std::pair<Ids, int32_t>{{5}, 20});
  CHECK(longest.back() == std::pair<Ids, int32_t>{{5, 20, 21, 22, 23, 24}, 25});
  CHECK(cut.queries.unshared_tokens() == 3 * 6);
}

TEST_CASE("answers of one id share the query of their context, and equal rows are scored once") {
  MadeTask task;
  const Ids question = counted_ids(1, 9);
  task.add(2, {{question, {31}}, {question, {32}}, {question, {33}}, {question, {34}}});
  task.add(0, {{question, {33}}, {question, {40, 41}}, {question, {40, 42}}});  // the last two share a query too
  const Cut cut(task, 16);
  CHECK(cut.queries.num_queries() == 2);
  CHECK(cut.queries.num_scores() == 6);
  CHECK(cut.queries.score_of_row().at(4) == cut.queries.score_of_row().at(2));
  CHECK(cut.queries.tokens() == 9 + 10);
  CHECK(cut.queries.unshared_tokens() == 5 * 9 + 2 * 10);
  CHECK(asked_of_row(cut, 3) == Asked{{question, 34}});
  auto with_40 = question;
  with_40.push_back(40);
  CHECK(asked_of_row(cut, 6) == Asked{{question, 40}, {with_40, 42}});
}

TEST_CASE("rows are scored after their domain string too, for pmi_dc alone") {
  auto task = small_task();
  for (auto& row : task.rows) row.domain = 1;
  CHECK(Cut(task, 16).queries.num_scores() == 4);
  task.metadata["metric"] = "pmi_dc";
  const Cut cut(task, 16);
  // The domain string is the context of document 1, whose rows are the same with and without.
  CHECK(cut.queries.num_scores() == 4 + 1);
  CHECK(cut.queries.domain_score_of_row().at(2) == cut.queries.score_of_row().at(2));
  const auto asked = asked_of(cut.queries, 1000);
  CHECK(asked.at(static_cast<size_t>(cut.queries.domain_score_of_row().at(0))) == Asked{{{7, 8}, 4}, {{7, 8, 4}, 5}});
}

TEST_CASE("queries are packed by length into micro-batches of at most so many tokens") {
  MadeTask task;
  for (int32_t length = 1; length <= 12; ++length) task.add(0, {{counted_ids(1, length), {40}}});
  const int64_t max_tokens = GENERATE(1, 16, 24, 40, 1000);
  const Cut cut(task, 12, max_tokens);
  const auto asked = asked_of(cut.queries, max_tokens);
  for (int32_t length = 1; length <= 12; ++length) {
    const auto score = static_cast<size_t>(cut.queries.score_of_row().at(static_cast<size_t>(length) - 1));
    CHECK(asked.at(score) == Asked{{counted_ids(1, length), 40}});
  }
  // Twelve positions (the whole context) for lengths 12 to 9, eight for the others.
  const std::map<int64_t, int64_t> batches{{1, 12}, {16, 4 + 4}, {24, 2 + 3}, {40, 2 + 2}, {1000, 1}};
  CHECK(cut.queries.num_batches() == batches.at(max_tokens));
  const auto none = cut.queries.batch(cut.queries.num_batches());
  CHECK(none.batch.ids_BS.size(0) == 0);
  CHECK(none.candidates.ids_C.numel() == 0);
  CHECK(none.score_C.empty());
}

TEST_CASE("documents are cut into windows that see the last id before them") {
  auto task = MadeTask::of("documents", "perplexity");
  task.add(0, {{{}, counted_ids(1, 10)}});
  task.add(0, {{{}, {30, 31}}});
  const Cut cut(task, 4);
  CHECK(cut.queries.ids_of_score() == std::vector<int64_t>{9, 1});
  CHECK(cut.queries.num_queries() == 3 + 1);
  CHECK(cut.queries.tokens() == 9 + 1);
  CHECK(cut.queries.unshared_tokens() == 9 + 1);
  CHECK(cut.queries.truncated() == 0);
  auto asked = asked_of_row(cut, 0);
  std::sort(asked.begin(), asked.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  REQUIRE(asked.size() == 9);
  CHECK(asked[0] == std::pair<Ids, int32_t>{{1}, 2});
  CHECK(asked[3] == std::pair<Ids, int32_t>{{1, 2, 3, 4}, 5});
  CHECK(asked[4] == std::pair<Ids, int32_t>{{5}, 6});
  CHECK(asked[8] == std::pair<Ids, int32_t>{{9}, 10});
  CHECK(asked_of_row(cut, 1) == Asked{{{30}, 31}});

  task.metadata["first_id"] = "49";
  const Cut with_first(task, 4);
  CHECK(with_first.queries.ids_of_score() == std::vector<int64_t>{10, 2});
  asked = asked_of_row(with_first, 0);
  std::sort(asked.begin(), asked.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  REQUIRE(asked.size() == 10);
  CHECK(asked[0] == std::pair<Ids, int32_t>{{49}, 1});
  CHECK(asked[3] == std::pair<Ids, int32_t>{{49, 1, 2, 3}, 4});
  CHECK(asked[4] == std::pair<Ids, int32_t>{{4}, 5});
}
