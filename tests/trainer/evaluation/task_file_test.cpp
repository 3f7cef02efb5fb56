// Files of requests: what is read from a good one, and what is refused, by name, in others.
#include "trainer/evaluation/task_file.h"

#include <filesystem>

#include "core/error.h"
#include "support/catch.h"
#include "support/task_files.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr int64_t kVocab = 50, kContext = 16;

/// The message with which a task is refused when it is opened.
std::string refusal(const MadeTask& task) {
  const TempFolder folder;
  try {
    TaskFile(task.write(folder), kVocab, kContext);
  } catch (const DataError& error) {
    return error.what();
  }
  return "accepted";
}

/// small_task() after `change`.
std::string refusal(const std::function<void(MadeTask&)>& change) {
  auto task = small_task();
  change(task);
  return refusal(task);
}

Ids ids_of(const TaskFile& file, int64_t context, int64_t continuation, int64_t first, size_t count) {
  Ids ids(count);
  file.read_ids(context, continuation, first, ids);
  return ids;
}

}  // namespace

TEST_CASE("a task file has rows by document, and ids of a context followed by a continuation") {
  const TempFolder folder;
  const auto path = small_task().write(folder);
  const TaskFile file(path, kVocab, kContext);
  CHECK(file.name() == "made");
  CHECK(file.kind() == TaskKind::multiple_choice);
  CHECK(file.metric() == TaskMetric::acc);
  CHECK(file.source() == "a test");
  CHECK(file.num_documents() == 2);
  CHECK(file.rows().size() == 4);
  CHECK(file.label(0) == 1);
  const auto rows = file.rows_of(1);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].continuation == file.rows_of(0)[1].continuation);
  CHECK(rows[1].bytes_v1 == 5);
  CHECK(file.context_length(rows[1].context) == 2);
  CHECK(file.continuation_length(rows[1].continuation) == 3);
  CHECK(ids_of(file, rows[1].context, rows[1].continuation, 0, 5) == Ids{7, 8, 9, 10, 11});
  CHECK(ids_of(file, rows[1].context, rows[1].continuation, 1, 2) == Ids{8, 9});
  CHECK(ids_of(file, rows[1].context, rows[1].continuation, 3, 2) == Ids{10, 11});
  CHECK(ids_of(file, rows[1].context, rows[1].continuation, 0, 1) == Ids{7});
  CHECK(ids_of(file, rows[1].context, rows[1].continuation, 5, 0).empty());
  CHECK(file.fingerprint() == TaskFile(path, kVocab, kContext).fingerprint());
  auto other = small_task();
  other.labels[0] = 0;
  const TempFolder another;
  CHECK(TaskFile(other.write(another), kVocab, kContext).fingerprint() != file.fingerprint());
}

TEST_CASE("documents begin with the first id of their file, where it has one") {
  auto task = MadeTask::of("documents", "perplexity");
  task.add(0, {{{}, {3, 4, 5}}});
  const TempFolder folder, other;
  const TaskFile without(task.write(folder), kVocab, kContext);
  CHECK(without.context_length(0) == 0);
  CHECK(ids_of(without, 0, 0, 0, 3) == Ids{3, 4, 5});
  task.metadata["first_id"] = "49";
  const TaskFile with(task.write(other), kVocab, kContext);
  CHECK(with.context_length(0) == 1);
  CHECK(ids_of(with, 0, 0, 0, 4) == Ids{49, 3, 4, 5});
  task.metadata["first_id"] = "50";
  CHECK_THAT(refusal(task), Catch::Contains("first_id 50 is not below vocab_size 50"));
}

TEST_CASE("files that are no task files are refused") {
  using Catch::Contains;
  const TempFolder folder;
  const auto open = [](const std::string& path) { TaskFile(path, kVocab, kContext); };
  CHECK_THROWS_WITH(open(folder / "gone.safetensors"), Contains("gone.safetensors: there is no such file"));
  CHECK_THROWS_AS(open(folder.add("bytes.safetensors", "nothing of the kind")), DataError);
  CHECK_THAT(refusal([](auto& task) { task.metadata["format"] = "olmoe-task 2"; }),
             Contains("its format is 'olmoe-task 2', not 'olmoe-task 1'"));
  CHECK_THAT(refusal([](auto& task) { task.metadata.erase("kind"); }), Contains("no 'kind'"));
  CHECK_THAT(refusal([](auto& task) { task.metadata["kind"] = "essay"; }),
             Contains("kind is 'essay', not one of multiple_choice, gold, documents"));
  CHECK_THAT(refusal([](auto& task) { task.metadata["metric"] = "bpb"; }),
             Contains("kind multiple_choice has no metric bpb"));
  CHECK_THAT(refusal([](auto& task) { task.change = [](auto& items) { items.erase(items.begin()); }; }),
             Contains("has no tensor 'context_bounds'"));
  CHECK_THAT(refusal([](auto& task) {
               task.change = [](auto& items) {
                 for (auto& item : items)
                   if (item.name == "row_chars") item.dtype = safetensors::Dtype::u64;
               };
             }),
             Contains("tensor row_chars is U64 with 1 dimensions, not int64 with one"));
  const auto renamed = folder / "another.safetensors";
  std::filesystem::rename(small_task().write(folder), renamed);
  CHECK_THROWS_WITH(open(renamed), Contains("it is the task made") && Contains("call it made.safetensors"));
}

TEST_CASE("tasks of another tokenizer are refused") {
  using Catch::Contains;
  CHECK_THAT(refusal([](auto& task) { task.metadata["vocab_size"] = "51"; }),
             Contains("made.safetensors: its tokenizer (bytes) has ids up to 50, the model's vocabulary ends at "
                      "model.vocab_size = 50"));
  CHECK_THAT(refusal([](auto& task) { task.metadata["vocab_size"] = "11"; }),
             Contains("document 1: id 11 at 5 of continuation_ids is not below its vocab_size 11"));
  CHECK_THAT(refusal([](auto& task) { task.contexts[1][0] = -1; }), Contains("document 1: id -1 at 3 of context_ids"));
  CHECK_THAT(refusal([](auto& task) { task.metadata["vocab_size"] = "many"; }), Contains("vocab_size is 'many'"));
}

TEST_CASE("rows out of order, labels and places outside of the file are refused with their document") {
  using Catch::Contains;
  const auto row = [](size_t index, int64_t TaskRow::*column, int64_t value) {
    return refusal([=](auto& task) { task.rows[index].*column = value; });
  };
  CHECK_THAT(row(2, &TaskRow::document, 2), Contains("row 2 is of document 2"));
  CHECK_THAT(row(0, &TaskRow::document, 1), Contains("row 0 is of document 1"));
  CHECK_THAT(row(0, &TaskRow::document, -1), Contains("row 0 is of document -1"));
  CHECK_THAT(row(3, &TaskRow::document, 0), Contains("row 3 is of document 0"));
  CHECK_THAT(row(3, &TaskRow::choice, 2), Contains("document 1: row 3 is choice 2, not 1"));
  CHECK_THAT(row(3, &TaskRow::context, 2), Contains("document 1, choice 1: row_context is 2"));
  CHECK_THAT(row(3, &TaskRow::continuation, -1), Contains("document 1, choice 1: row_continuation is -1"));
  CHECK_THAT(row(1, &TaskRow::domain, 1), Contains("row_domain is -1 in some rows and not in others"));
  CHECK_THAT(row(1, &TaskRow::chars, 0), Contains("document 0, choice 1: 0 characters of 2 bytes"));
  CHECK_THAT(row(1, &TaskRow::bytes, 1), Contains("document 0, choice 1: 2 characters of 1 bytes"));
  CHECK_THAT(row(1, &TaskRow::chars_v1, 0), Contains("0 characters of 1 bytes without the first character"));
  CHECK_THAT(refusal([](auto& task) { task.labels[1] = 2; }),
             Contains("document 1: its label is 2, and it has 2 rows"));
  CHECK_THAT(refusal([](auto& task) { task.labels.push_back(0); }),
             Contains("row_document has 2 documents, document_label has 3"));
  CHECK_THAT(refusal([](auto& task) { task.metadata["metric"] = "pmi_dc"; }),
             Contains("needs a context in row_domain"));
  CHECK_THAT(refusal([](auto& task) {
               task.metadata["kind"] = "gold";
               task.metadata["metric"] = "bpb";
             }),
             Contains("document 0: 2 rows, where kind gold has one"));
}

TEST_CASE("bounds that fall, and lists that are empty, are refused") {
  using Catch::Contains;
  std::vector<int64_t> bounds{0, 4, 3, 6};
  const auto with_bounds = [&](std::vector<int64_t> values) {
    bounds = std::move(values);
    return refusal([&](auto& task) {
      task.change = [&](auto& items) {
        for (auto& item : items)
          if (item.name == "continuation_bounds") item.bytes = std::as_bytes(std::span(bounds));
      };
    });
  };
  CHECK_THAT(with_bounds({0, 4, 3, 6}), Contains("continuation_bounds falls after element 1"));
  CHECK_THAT(with_bounds({0, 2, 3, 5}), Contains("does not begin with 0 and end with 6"));
  CHECK_THAT(with_bounds({1, 2, 3, 6}), Contains("does not begin with 0 and end with 6"));
  CHECK_THAT(with_bounds({0, 3, 3, 6}), Contains("document 0, choice 1: its continuation has no ids"));
  CHECK_THAT(refusal(MadeTask{}), Contains("it has no documents"));
  MadeTask no_context;
  no_context.add(0, {{{}, {1}}});
  CHECK_THAT(refusal(no_context), Contains("document 0, choice 0: its context is empty"));
  auto documents = MadeTask::of("documents", "perplexity");
  documents.add(0, {{{1}, {1, 2}}});
  CHECK_THAT(refusal(documents), Contains("kind documents has empty contexts"));
  auto short_document = MadeTask::of("documents", "perplexity");
  short_document.add(0, {{{}, {1, 2}}});
  short_document.add(0, {{{}, {1}}});
  CHECK_THAT(refusal(short_document), Contains("document 1, choice 0: it is one id, which nothing predicts"));
}

TEST_CASE("a continuation as long as the context fits, a longer one is refused") {
  const auto of_length = [](size_t length) {
    MadeTask task;
    task.add(0, {{{1, 2}, {3}}});
    task.add(0, {{{1, 2}, Ids(length, 4)}});
    return refusal(task);
  };
  CHECK(of_length(kContext) == "accepted");
  CHECK_THAT(of_length(kContext + 1), Catch::Contains("document 1, choice 0: its continuation of 17 ids does not fit "
                                                      "in a context of 16 (evaluation.context)"));
}

TEST_CASE("a file that is cut short or changed after it was opened is an error of its reader") {
  const TempFolder folder;
  const auto path = small_task().write(folder);
  const TaskFile file(path, kVocab, kContext);
  const auto& row = file.rows_of(1)[1];
  std::filesystem::resize_file(path, 0);
  CHECK_THROWS_WITH(ids_of(file, row.context, row.continuation, 0, 5),
                    Catch::Contains("made.safetensors: it can no longer be read"));
}
