#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/hash.h"
#include "data/data_file.h"

namespace olmoe {

enum class TokenDtype { uint16, uint32 };

/// Whether token files stay open and mapped, or are opened for each read: there may be more files than a process can
/// open or map.
enum class OpenFiles { none, kept };

/// A header-less little-endian token file, as `dolma tokens` writes it. If it changes during a run, reads throw
/// DataError. Reads are thread-safe.
class TokenFile {
 public:
  /// Checks size and first bytes. Throws DataError with the path of a file that is missing, not regular, empty, of
  /// another format (which is named), or whose size is not a multiple of the id size. vocab_size 0 accepts any id.
  TokenFile(std::string path, TokenDtype dtype, int64_t vocab_size, OpenFiles keep = OpenFiles::none);

  const std::string& path() const { return path_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t size_bytes() const;
  /// Adds name, size and FileSample to the hash. Throws DataError if the sample has ids outside the vocabulary, or ids
  /// of another width.
  void check_sample(Hasher& hasher);
  /// Reads tokens [first, first + out.size()) as int64. Throws DataError for an id outside the vocabulary, with its
  /// position in the file, and if the file changed since it was opened.
  void read(int64_t first, std::span<int64_t> out) const;
  /// Reads the whole file, and its document table if there is one; returns the XXH3-128 of its bytes in hex. Throws
  /// DataError for the first id outside the vocabulary, and for a table with another number of tokens.
  std::string read_all() const;

 private:
  std::shared_ptr<const DataFile> open() const;
  void check_unchanged(const DataFile& file) const;
  void check_table() const;
  template <class Id>
  void check_ids(std::span<const Id> ids, int64_t first) const;

  std::string path_;
  TokenDtype dtype_;
  int64_t vocab_size_, num_tokens_ = 0;
  std::string sample_hash_;               // empty: not checked yet
  std::shared_ptr<const DataFile> kept_;  // null: opened for each read
  mutable std::mutex mutex_;              // for modified_ns_
  mutable int64_t modified_ns_ = 0;
};

/// Throws one DataError with the first 20 of `problems` of `num_files` token files, the number of others, and `advice`;
/// nothing where there is none.
void throw_token_file_problems(const std::vector<std::string>& problems, size_t num_files,
                               std::string_view advice = {});

/// Several token files as one list of sequences: floor(tokens / sequence_length) of each file, in path order. The tail
/// of every file is left out, as in OLMoE.
class TokenDataset {
 public:
  /// Throws DataError with the problems of all files at once (20 of them listed): those of sizes, first bytes and
  /// samples. Where files are missing samples are not read, and the error says how token files are made. With
  /// OpenFiles::kept the first files stay open, up to half of what the process may open.
  TokenDataset(const std::vector<std::string>& paths, TokenDtype dtype, int64_t sequence_length, int64_t vocab_size,
               OpenFiles keep = OpenFiles::none);
  /// TokenFile::read_all of the files f with f mod parts == part, so that ranks can share the work. Returns one hash
  /// per file, empty for files of other parts; throws one DataError for all problems.
  std::vector<std::string> read_all(int part = 0, int parts = 1) const;
  int64_t num_sequences() const;
  int64_t num_tokens() const;
  int64_t sequence_length() const { return sequence_length_; }
  size_t num_files() const { return files_.size(); }
  const std::string& path(size_t file) const { return files_.at(file).path(); }
  /// Tokens of a file, the tail that no sequence has included.
  int64_t file_tokens(size_t file) const { return files_.at(file).num_tokens(); }
  /// Where a sequence begins.
  struct Place {
    size_t file;
    int64_t first;  ///< token of the file
  };
  Place place(int64_t sequence) const;
  /// Fills `out`, sequence_length() ids, with that sequence. Throws DataError as TokenFile::read does.
  void read(int64_t sequence, std::span<int64_t> out) const;
  /// XXH3-128 in hex over sequence length, names, sizes and FileSample of all files in order, when the dataset was
  /// opened. It does not depend on folders: data may move.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void check_samples(std::vector<std::string>& problems);

  std::deque<TokenFile> files_;
  std::vector<int64_t> first_sequence_;  // of each file; at the end the total
  int64_t sequence_length_;
  std::string fingerprint_;
};

}  // namespace olmoe
