#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/config_reader.h"
#include "data/token_files.h"

namespace olmoe {

template <>
struct EnumNames<TokenDtype> {
  static constexpr std::array names{"uint16", "uint32"};
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
    v("check_ids", check_ids, "read every token at start and refuse ids outside the vocabulary");
    v("prefetch", prefetch, {1, 1024}, "micro-batches prepared ahead by the loader's thread");
  }
};

/// The token files that a list names, one a line, without blank lines and # comments; relative ones
/// start from `root`. They need not exist. Throws ConfigError naming the list, and the line of a path
/// that cannot be used.
std::vector<std::string> read_path_list(const std::string& list, const std::string& root);

/// Those of `paths` that are no regular file, in order. Never throws on account of a file: for a
/// dry run.
std::vector<std::string> missing_files(const std::vector<std::string>& paths);

}  // namespace olmoe
