// Shapes: D documents, R rows, C contexts, Q continuations.
#pragma once
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/files/safetensors.h"

namespace olmoe {

/// multiple_choice: the rows of a document are the continuations to choose from. gold: each document has one row, its
/// right continuation. documents: each document is one text, without a context.
enum class TaskKind { multiple_choice, gold, documents };
/// What a task's main result is (trainer/evaluation/task_metrics.h).
enum class TaskMetric { acc, len_norm, pmi_dc, f1, ce_loss, bpb, perplexity };
inline constexpr std::array kTaskKindNames{"multiple_choice", "gold", "documents"};
inline constexpr std::array kTaskMetricNames{"acc", "len_norm", "pmi_dc", "f1", "ce_loss", "bpb", "perplexity"};

/// One continuation of one document.
struct TaskRow {
  int64_t document, choice;       ///< index of the document, and of the continuation within it
  int64_t context, continuation;  ///< of the file
  int64_t domain;                 ///< the context that stands for no context, for pmi_dc; -1: none
  int64_t chars, bytes;           ///< Unicode code points and UTF-8 bytes of the continuation
  int64_t chars_v1, bytes_v1;     ///< without its first character
};

/// A file of requests as token ids, made by scripts/prepare_tasks.py (docs/evaluation.md). Ids stay in the file, which
/// is memory-mapped; all else is in memory.
class TaskFile {
 public:
  /// Reads and checks all of it, for a model of `vocab_size` ids that sees `context` of them. Throws DataError, with
  /// the path and the document, for a file that is missing, damaged, empty, of another format, kind or tokenizer, and
  /// for a continuation that is longer than `context`.
  TaskFile(std::string path, int64_t vocab_size, int64_t context);

  const std::string& path() const { return path_; }
  const std::string& name() const { return name_; }
  TaskKind kind() const { return kind_; }
  TaskMetric metric() const { return metric_; }
  const std::string& source() const { return source_; }
  /// Rows in the order of documents, those of a document in that of its choices.
  std::span<const TaskRow> rows() const { return rows_; }
  int64_t num_documents() const { return static_cast<int64_t>(labels_.size()); }
  /// The rows of a document.
  std::span<const TaskRow> rows_of(int64_t document) const;
  /// The right choice of a document.
  int64_t label(int64_t document) const { return labels_.at(static_cast<size_t>(document)); }
  /// Ids of a context: of kind documents the first id that the file names, or none.
  int64_t context_length(int64_t context) const;
  int64_t continuation_length(int64_t continuation) const { return length_of(continuations_, continuation); }
  /// Fills `out` with ids [first, first + out.size()) of a context followed by a continuation. Throws DataError where
  /// the file can no longer be read, or has changed to ids outside the vocabulary.
  void read_ids(int64_t context, int64_t continuation, int64_t first, std::span<int32_t> out) const;
  /// XXH3-128 in hex of the whole file when it was opened.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  /// Lists of ids, one after another in one tensor.
  struct IdLists {
    std::string tensor;
    std::vector<int64_t> bounds;
  };
  static int64_t length_of(const IdLists& lists, int64_t list) {
    return lists.bounds.at(static_cast<size_t>(list) + 1) - lists.bounds.at(static_cast<size_t>(list));
  }
  void read_file(int64_t context);
  void read_metadata();
  void read_first_id();
  std::string word(const std::string& key) const;
  int64_t number(const std::string& key) const;
  std::vector<int64_t> read_integers(const std::string& tensor, std::optional<int64_t> length = {}) const;
  void read_lists(IdLists& lists, const std::string& name) const;
  void read_rows();
  void order_rows();
  void check_documents() const;
  void check_row(const TaskRow& row) const;
  void check_lengths(const TaskRow& row, int64_t context) const;
  void check_ids(const IdLists& lists) const;
  std::string user_of(const IdLists& lists, int64_t list) const;
  void read_list(const IdLists& lists, int64_t list, int64_t first, std::span<int32_t> out) const;

  std::string path_, name_, source_, fingerprint_;
  TaskKind kind_ = TaskKind::multiple_choice;
  TaskMetric metric_ = TaskMetric::acc;
  int64_t vocab_size_;  ///< of the model, then of the tokenizer of the file
  std::optional<int32_t> first_id_;
  std::unique_ptr<const safetensors::File> file_;
  IdLists contexts_, continuations_;
  std::vector<TaskRow> rows_;
  std::vector<int64_t> labels_;
  std::vector<size_t> first_row_;  // of each document; at the end the number of rows
};

}  // namespace olmoe
