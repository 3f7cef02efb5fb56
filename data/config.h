#pragma once
#include <cstdint>
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

/// What of the training tokens is compared when a run goes on.
enum class DataVerify { sample, full };

template <>
struct EnumNames<DataVerify> {
  static constexpr std::array names{"sample", "full"};
};

/// Where training tokens come from.
struct DataConfig {
  std::vector<std::string> paths;
  std::string paths_file;
  std::string root;
  TokenDtype dtype = TokenDtype::uint16;
  int64_t sequence_length = 4096;
  bool synthetic = false;
  bool check_ids = true;
  DataVerify verify = DataVerify::sample;
  int64_t prefetch = 2;

  template <class V>
  void fields(V& v) {
    v("paths", paths, "header-less token files, in order");
    v("paths_file", paths_file,
      "text file with one token file a line, appended to paths; relative to the config file that names it");
    v("root", root, "folder that relative token paths of files start from; empty: the working directory");
    v("dtype", dtype, "type of a stored token id");
    v("sequence_length", sequence_length, {2, 1 << 24}, "tokens of an instance, S");
    v("synthetic", synthetic, "train on generated tokens, without any file");
    v("check_ids", check_ids,
      "read every token and every table of documents (NAME.csv.gz beside NAME.npy) at start, and "
      "refuse ids outside the vocabulary and files whose table counts other tokens; false: look at "
      "samples at start, and at each id as it is used");
    v("verify", verify,
      "how a run that goes on knows its training tokens again; sample: names, sizes, and files of "
      "up to 64 KiB whole, of larger ones 16 blocks of 4 KiB; full: every byte, read at every start");
    v("prefetch", prefetch, {1, 1024}, "micro-batches prepared ahead by the loader's thread");
  }
};

/// The token files that a list names, one a line, without blank lines and # comments; relative ones
/// start from `root`. They need not exist. Throws ConfigError naming the list, and the line of a path
/// that cannot be used.
std::vector<std::string> read_path_list(const std::string& list, const std::string& root);

/// Advice for a user whose token files are missing.
inline constexpr std::string_view kHowTokensAreMade =
    "scripts/make_text_tokens.py makes those of configs/tiny-cpu.yaml, scripts/tokenize.py those of your own text: see "
    "docs/quickstart.md and docs/data.md";

/// Those of `paths` that are no regular file, in order. Never throws on account of a file: for a
/// dry run.
std::vector<std::string> missing_files(const std::vector<std::string>& paths);

}  // namespace olmoe
