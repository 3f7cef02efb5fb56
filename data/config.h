#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/reader/config_reader.h"
#include "data/token_files.h"

namespace olmoe {

template <>
struct EnumNames<TokenDtype> {
  static constexpr std::array names{"uint16", "uint32"};
};

/// How the documents are found that attention stays within; none: it sees whole sequences.
enum class DocumentMask { none, eos, table };

template <>
struct EnumNames<DocumentMask> {
  static constexpr std::array names{"none", "eos", "table"};
};

/// What of the training tokens is compared when a run resumes.
enum class DataVerify { sample, full };

template <>
struct EnumNames<DataVerify> {
  static constexpr std::array names{"sample", "full"};
};

inline constexpr int64_t kMostSkipped = 1'000'000'000'000'000;  // the last position that a range may name

/// What a SkipRange counts: positions of the shuffled stream from 0, or optimizer steps from 1.
enum class SkipUnit { sequences, steps };

template <>
struct EnumNames<SkipUnit> {
  static constexpr std::array names{"sequences", "steps"};
};

/// A range of data that training leaves out (data.skip), both ends included.
struct SkipRange {
  SkipUnit unit = SkipUnit::steps;
  int64_t first = 0, last = 0;

  template <class V>
  void fields(V& v) {
    v.required("unit", unit,
               "sequences: positions in the whole shuffled stream, from 0; steps: the sequences that these optimizer "
               "steps take with the ranges before this one");
    v.required("first", first, {0, kMostSkipped}, "first step or sequence of the range");
    v.required("last", last, {0, kMostSkipped}, "last one, which is left out too");
  }
};

/// Sequences without a loss, because they repeat a few ids too often. The keys are those of allenai/OLMo.
struct InstanceFilter {
  int64_t repetition_max_count = 0;
  int64_t repetition_min_period = 1;
  int64_t repetition_max_period = 13;

  bool is_on() const { return repetition_max_count > 0; }

  template <class V>
  void fields(V& v) {
    v("repetition_max_count", repetition_max_count, {0, 1 << 20},
      "a sequence is masked where so many equal blocks of ids, or more, follow each other: it is computed and counted, "
      "but its targets have no loss; at least 3; 0: no sequence is masked");
    v("repetition_min_period", repetition_min_period, {1, 1 << 10}, "ids of the shortest block");
    v("repetition_max_period", repetition_max_period, {1, 1 << 10}, "ids of the longest one");
  }
};

/// Where training tokens come from.
struct DataConfig {
  std::vector<std::string> paths;
  std::string paths_file;
  std::string root;
  TokenDtype dtype = TokenDtype::uint16;
  int64_t sequence_length = 4096;
  bool synthetic = false;
  DocumentMask document_mask = DocumentMask::none;
  std::optional<int64_t> eos_id;
  std::vector<SkipRange> skip = {};
  InstanceFilter instance_filter = {};
  bool check_ids = true;
  DataVerify verify = DataVerify::sample;
  int64_t prefetch = 2;

  /// Every training file, in order: for all who ask which there are.
  std::vector<std::string> all_paths() const { return paths; }
  /// Generated tokens in place of files.
  void make_synthetic() {
    paths.clear();
    synthetic = true;
  }

  template <class V>
  void fields(V& v) {
    v("paths", paths, "header-less token files, in order").data_files();
    v("paths_file", paths_file,
      "text file with one token file per line, appended to paths; relative to the config file that names it");
    v("root", root, "folder that relative token paths in files start from; empty: the working directory");
    v("dtype", dtype, "type of a stored token id");
    v("sequence_length", sequence_length, {2, 1 << 24}, "tokens of a sequence, S");
    v("synthetic", synthetic, "train on generated tokens, without any file");
    v("document_mask", document_mask,
      "attention within documents, in training and held-out sets; eos: the token eos_id ends one and is in it; table: "
      "those of the tables NAME.csv.gz beside NAME.npy; none: over whole sequences");
    v("eos_id", eos_id, "id of the token that ends a document, for document_mask: eos");
    v("skip", skip,
      "data that training leaves out, to lead a run round a bad batch: [{unit: steps, first: 1200, last: 1219}]; see "
      "checkpoint.resume");
    v("instance_filter", instance_filter, "training sequences that repeat themselves are not learned from");
    v("check_ids", check_ids,
      "read every token and every document table (NAME.csv.gz beside NAME.npy) at start, and refuse ids outside the "
      "vocabulary and files whose table has another number of tokens; false: check samples at start, and each id when "
      "it is used");
    v("verify", verify,
      "what of the training data is compared when a run resumes; sample: names, sizes, all of files up to 64 KiB, 16 "
      "blocks of 4 KiB of larger ones; full: every byte, read at every start");
    v("prefetch", prefetch, {1, 1024}, "micro-batches that the data loader prepares ahead").per_host();
  }
};

/// Problems of data.skip, one sentence each.
std::vector<std::string> validate(std::span<const SkipRange> ranges);
/// Problems of data.instance_filter.
std::vector<std::string> validate(const InstanceFilter& filter);
/// Problems of data.document_mask with ids below vocab_size.
std::vector<std::string> validate_documents(const DataConfig& config, int64_t vocab_size);

/// The token files of a list: one per line, without blank lines and # comments; relative ones are below `root`. They
/// need not exist. Throws ConfigError with the list, and with the line of an invalid path.
std::vector<std::string> read_path_list(const std::string& list, const std::string& root);

/// Advice for a user whose token files are missing.
inline constexpr std::string_view kHowTokensAreMade =
    "scripts/make_text_tokens.py makes those of configs/tiny-cpu.yaml, scripts/tokenize.py those of your own text: see "
    "docs/quickstart.md and docs/data.md";

/// The `paths` that are not regular files, in order. Does not throw for a file, whatever is wrong with it.
std::vector<std::string> missing_files(const std::vector<std::string>& paths);

}  // namespace olmoe
