#include "trainer/evaluation/task_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <functional>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/process/bus_errors.h"
#include "core/reader/config_node.h"

namespace olmoe {
namespace {

constexpr const char* kFormat = "olmoe-task 1";
constexpr size_t kChunkBytes = 1 << 20;

/// Whether results of this metric can be made of rows of this kind.
bool fits(TaskKind kind, TaskMetric metric) {
  switch (metric) {
    case TaskMetric::perplexity:
      return kind == TaskKind::documents;
    case TaskMetric::ce_loss:
    case TaskMetric::bpb:
      return kind == TaskKind::gold;
    default:
      return kind == TaskKind::multiple_choice;
  }
}

/// The enum's value whose name is `word`. Throws DataError for another word.
template <class E>
E parse_word(const std::string& key, const std::string& word, const auto& names) {
  const auto found = std::ranges::find(names, word);
  if (found == names.end())
    throw DataError(fmt::format("{} is '{}', not one of {}", key, printable(word), fmt::join(names, ", ")));
  return static_cast<E>(found - names.begin());
}

/// Runs `work`; an Error of it becomes a DataError that names the file.
template <class F>
void naming(const std::string& path, const F& work) {
  try {
    work();
  } catch (const Error& error) {
    throw DataError(fmt::format("task file {}: {}", path, error.what()));
  }
}

/// Copies mapped bytes: the file may have been cut short since it was mapped.
void read_bytes(const std::byte* from, std::span<std::byte> out) {
  if (!guarded_copy(out, from)) throw DataError("it can no longer be read: it was cut short, or its disk failed");
}

/// Hasher::hex() of mapped bytes.
std::string hash_mapped(std::span<const std::byte> bytes) {
  Hasher hasher;
  std::vector<std::byte> chunk(kChunkBytes);
  for (size_t begin = 0; begin < bytes.size(); begin += kChunkBytes) {
    const auto part = std::span(chunk).first(std::min(kChunkBytes, bytes.size() - begin));
    read_bytes(bytes.data() + begin, part);
    hasher.update(part);
  }
  return hasher.hex();
}

}  // namespace

TaskFile::TaskFile(std::string path, int64_t vocab_size, int64_t context)
    : path_(std::move(path)), vocab_size_(vocab_size) {
  naming(path_, [&] { read_file(context); });
}

void TaskFile::read_file(int64_t context) {
  std::error_code unknown;
  if (!std::filesystem::is_regular_file(path_, unknown)) throw DataError("there is no such file");
  file_ = std::make_unique<safetensors::File>(path_);
  fingerprint_ = hash_mapped(file_->all_bytes());
  read_metadata();
  read_lists(contexts_, "context");
  read_lists(continuations_, "continuation");
  read_rows();
  order_rows();
  check_documents();
  for (const auto& row : rows_) check_row(row);
  for (const auto& row : rows_) check_lengths(row, context);
  check_ids(contexts_);
  check_ids(continuations_);
}

std::string TaskFile::word(const std::string& key) const {
  const auto found = file_->metadata().find(key);
  if (found == file_->metadata().end() || found->second.empty())
    throw DataError(fmt::format("its metadata has no '{}': scripts/prepare_tasks.py makes task files", key));
  return found->second;
}

int64_t TaskFile::number(const std::string& key) const {
  const auto text = word(key);
  int64_t value = -1;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  if (read.ec != std::errc() || read.ptr != text.data() + text.size() || value < 0)
    throw DataError(fmt::format("{} is '{}', not a number of ids", key, printable(text)));
  return value;
}

void TaskFile::read_metadata() {
  if (const auto format = word("format"); format != kFormat)
    throw DataError(fmt::format("its format is '{}', not '{}': make it again with scripts/prepare_tasks.py",
                                printable(format), kFormat));
  name_ = word("name");
  if (const auto stem = std::filesystem::path(path_).stem().string(); name_ != stem)
    throw DataError(fmt::format("it is the task {}: results go by the file's name, so call it {}.safetensors",
                                printable(name_), printable(name_)));
  kind_ = parse_word<TaskKind>("kind", word("kind"), kTaskKindNames);
  metric_ = parse_word<TaskMetric>("metric", word("metric"), kTaskMetricNames);
  if (!fits(kind_, metric_)) throw DataError(fmt::format("kind {} has no metric {}", word("kind"), word("metric")));
  source_ = word("source");
  const int64_t ids = number("vocab_size");
  if (ids == 0 || ids > vocab_size_)
    throw DataError(
        fmt::format("its tokenizer ({}) has ids up to {}, the model's vocabulary ends at model.vocab_size = {}: it was "
                    "made for another tokenizer",
                    printable(word("tokenizer")), ids - 1, vocab_size_));
  vocab_size_ = ids;
  read_first_id();
}

void TaskFile::read_first_id() {
  if (!file_->metadata().contains("first_id")) return;
  if (kind_ != TaskKind::documents) throw DataError("first_id is for kind documents alone");
  const int64_t first = number("first_id");
  if (first >= vocab_size_) throw DataError(fmt::format("first_id {} is not below vocab_size {}", first, vocab_size_));
  first_id_ = static_cast<int32_t>(first);
}

std::vector<int64_t> TaskFile::read_integers(const std::string& tensor, std::optional<int64_t> length) const {
  const auto& entry = file_->entry(tensor);
  if (entry.dtype != safetensors::Dtype::i64 || entry.shape.size() != 1)
    throw DataError(fmt::format("tensor {} is {} with {} dimensions, not int64 with one", tensor,
                                safetensors::name(entry.dtype), entry.shape.size()));
  if (length && entry.shape[0] != *length)
    throw DataError(fmt::format("tensor {} has {} elements, not {}", tensor, entry.shape[0], *length));
  std::vector<int64_t> out(static_cast<size_t>(entry.shape[0]));
  read_bytes(file_->bytes(tensor).data(), std::as_writable_bytes(std::span(out)));
  return out;
}

/// `name`_ids and `name`_bounds.
void TaskFile::read_lists(IdLists& lists, const std::string& name) const {
  lists = {name + "_ids", read_integers(name + "_bounds")};
  const auto& ids = file_->entry(lists.tensor);
  if (ids.dtype != safetensors::Dtype::i32 || ids.shape.size() != 1)
    throw DataError(fmt::format("tensor {} is {} with {} dimensions, not int32 with one", lists.tensor,
                                safetensors::name(ids.dtype), ids.shape.size()));
  const auto& bounds = lists.bounds;
  if (bounds.empty() || bounds.front() != 0 || bounds.back() != ids.shape[0])
    throw DataError(fmt::format("{}_bounds does not begin with 0 and end with {}, the length of {}", name, ids.shape[0],
                                lists.tensor));
  const auto fall = std::ranges::adjacent_find(bounds, std::greater<>());
  if (fall != bounds.end())
    throw DataError(fmt::format("{}_bounds falls after element {}", name, fall - bounds.begin()));
}

void TaskFile::read_rows() {
  labels_ = read_integers("document_label");
  const auto document = read_integers("row_document");
  if (labels_.empty() || document.empty()) throw DataError("it has no documents: an empty task has no result");
  const auto column = [&](const char* name) { return read_integers(name, std::ssize(document)); };
  const auto choice = column("row_choice"), context = column("row_context"), continuation = column("row_continuation"),
             domain = column("row_domain"), chars = column("row_chars"), bytes = column("row_bytes"),
             chars_v1 = column("row_chars_v1"), bytes_v1 = column("row_bytes_v1");
  for (size_t r = 0; r < document.size(); ++r)
    rows_.push_back(
        {document[r], choice[r], context[r], continuation[r], domain[r], chars[r], bytes[r], chars_v1[r], bytes_v1[r]});
}

void TaskFile::order_rows() {
  for (size_t r = 0; r < rows_.size(); ++r) {
    const auto& row = rows_[r];
    if (row.document == std::ssize(first_row_)) first_row_.push_back(r);
    if (row.document != std::ssize(first_row_) - 1 || row.document < 0)
      throw DataError(fmt::format(
          "row {} is of document {} where document {} or the one after it is due: rows go document by document, from 0",
          r, row.document, std::ssize(first_row_) - 1));
    if (row.choice != static_cast<int64_t>(r - first_row_.back()))
      throw DataError(
          fmt::format("document {}: row {} is choice {}, not {}", row.document, r, row.choice, r - first_row_.back()));
  }
  if (first_row_.size() != labels_.size())
    throw DataError(
        fmt::format("row_document has {} documents, document_label has {}", first_row_.size(), labels_.size()));
  first_row_.push_back(rows_.size());
}

void TaskFile::check_documents() const {
  for (int64_t d = 0; d < num_documents(); ++d) {
    const auto choices = std::ssize(rows_of(d));
    if (label(d) < 0 || label(d) >= choices)
      throw DataError(fmt::format("document {}: its label is {}, and it has {} rows", d, label(d), choices));
    if (kind_ != TaskKind::multiple_choice && choices != 1)
      throw DataError(fmt::format("document {}: {} rows, where kind {} has one", d, choices,
                                  kTaskKindNames.at(static_cast<size_t>(kind_))));
  }
}

void TaskFile::check_row(const TaskRow& row) const {
  const auto refuse = [&](bool bad, const std::string& why) {
    if (bad) throw DataError(fmt::format("document {}, choice {}: {}", row.document, row.choice, why));
  };
  const int64_t contexts = std::ssize(contexts_.bounds) - 1, continuations = std::ssize(continuations_.bounds) - 1;
  refuse(row.context < 0 || row.context >= contexts,
         fmt::format("row_context is {}, and the file has {} contexts", row.context, contexts));
  refuse(row.continuation < 0 || row.continuation >= continuations,
         fmt::format("row_continuation is {}, and the file has {} continuations", row.continuation, continuations));
  refuse(row.domain < -1 || row.domain >= contexts,
         fmt::format("row_domain is {}, and the file has {} contexts", row.domain, contexts));
  refuse((row.domain < 0) != (rows_.front().domain < 0), "row_domain is -1 in some rows and not in others");
  refuse(row.domain < 0 && metric_ == TaskMetric::pmi_dc, "metric pmi_dc needs a context in row_domain");
  refuse(row.chars < 1 || row.bytes < row.chars,
         fmt::format("{} characters of {} bytes cannot be", row.chars, row.bytes));
  const bool has_v1 = kind_ != TaskKind::documents;  // of whole documents nothing is taken away
  refuse(has_v1 &&
             (row.chars_v1 < 1 || row.bytes_v1 < row.chars_v1 || row.chars_v1 > row.chars || row.bytes_v1 > row.bytes),
         fmt::format("{} characters of {} bytes without the first character cannot be (with it: {} of {})",
                     row.chars_v1, row.bytes_v1, row.chars, row.bytes));
}

void TaskFile::check_lengths(const TaskRow& row, int64_t context) const {
  const auto refuse = [&](bool bad, const std::string& why) {
    if (bad) throw DataError(fmt::format("document {}, choice {}: {}", row.document, row.choice, why));
  };
  const int64_t continued = continuation_length(row.continuation), before = length_of(contexts_, row.context);
  refuse(continued == 0, "its continuation has no ids");
  if (kind_ == TaskKind::documents) {
    refuse(before > 0, "kind documents has empty contexts");
    refuse(continued == 1 && !first_id_,
           "it is one id, which nothing predicts: leave it out, or make the file with a first id");
    return;
  }
  refuse(before == 0, "its context is empty: nothing predicts the first id of its continuation");
  refuse(row.domain >= 0 && length_of(contexts_, row.domain) == 0, "the context of row_domain is empty");
  refuse(continued > context,
         fmt::format("its continuation of {} ids does not fit in a context of {} (evaluation.context): it would lose "
                     "ids of its own",
                     continued, context));
}

void TaskFile::check_ids(const IdLists& lists) const {
  const auto all = file_->bytes(lists.tensor);
  std::vector<int32_t> ids(kChunkBytes / sizeof(int32_t));
  for (size_t begin = 0; begin < all.size(); begin += kChunkBytes) {
    const auto part = std::span(ids).first(std::min(kChunkBytes, all.size() - begin) / sizeof(int32_t));
    read_bytes(all.data() + begin, std::as_writable_bytes(part));
    const auto bad = std::ranges::find_if(part, [&](int32_t id) { return id < 0 || id >= vocab_size_; });
    if (bad == part.end()) continue;
    const auto place = static_cast<int64_t>(begin / sizeof(int32_t)) + (bad - part.begin());
    const auto list = std::ranges::upper_bound(lists.bounds, place) - lists.bounds.begin() - 1;
    throw DataError(
        fmt::format("{}: id {} at {} of {} is not below its vocab_size {}: it was made for another "
                    "tokenizer, or is damaged",
                    user_of(lists, list), *bad, place, lists.tensor, vocab_size_));
  }
}

/// The first document that uses a list of ids.
std::string TaskFile::user_of(const IdLists& lists, int64_t list) const {
  const bool of_contexts = &lists == &contexts_;
  const auto user = std::ranges::find_if(rows_, [&](const TaskRow& row) {
    return of_contexts ? row.context == list || row.domain == list : row.continuation == list;
  });
  return user == rows_.end() ? "no document" : fmt::format("document {}", user->document);
}

std::span<const TaskRow> TaskFile::rows_of(int64_t document) const {
  const auto d = static_cast<size_t>(document);
  return std::span(rows_).subspan(first_row_.at(d), first_row_.at(d + 1) - first_row_.at(d));
}

int64_t TaskFile::context_length(int64_t context) const {
  return kind_ == TaskKind::documents ? (first_id_ ? 1 : 0) : length_of(contexts_, context);
}

void TaskFile::read_list(const IdLists& lists, int64_t list, int64_t first, std::span<int32_t> out) const {
  const auto begin = static_cast<size_t>(lists.bounds.at(static_cast<size_t>(list)) + first);
  read_bytes(file_->bytes(lists.tensor).data() + begin * sizeof(int32_t), std::as_writable_bytes(out));
  for (const int32_t id : out)
    if (id < 0 || id >= vocab_size_)
      throw DataError(fmt::format("{}: it has changed: id {} is not below its vocab_size {}", user_of(lists, list), id,
                                  vocab_size_));
}

void TaskFile::read_ids(int64_t context, int64_t continuation, int64_t first, std::span<int32_t> out) const {
  const int64_t before = context_length(context), all = before + continuation_length(continuation);
  ENSURE(first >= 0 && first + std::ssize(out) <= all, "ids {} to {} of {}", first, first + std::ssize(out), all);
  const auto of_context = out.first(static_cast<size_t>(std::clamp<int64_t>(before - first, 0, std::ssize(out))));
  const auto of_continuation = out.subspan(of_context.size());
  naming(path_, [&] {
    if (kind_ == TaskKind::documents)
      std::ranges::fill(of_context, first_id_.value_or(0));
    else if (!of_context.empty())
      read_list(contexts_, context, first, of_context);
    if (!of_continuation.empty())
      read_list(continuations_, continuation, std::max<int64_t>(0, first - before), of_continuation);
  });
}

}  // namespace olmoe
