#pragma once
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "core/hash.h"
#include "data/data_file.h"

namespace olmoe {

enum class TokenDtype { uint16, uint32 };

/// Whether token files stay open and mapped from the start, or are opened for each read: files may
/// be more than a process can open or map.
enum class OpenFiles { none, kept };

/// A header-less little-endian token file, as `dolma tokens` writes it. A file that is cut or
/// written to while a run reads it ends the run with a DataError. Reads may be made from several
/// threads.
class TokenFile {
 public:
  /// Looks at the file's size and first bytes. Throws DataError naming it: missing, no regular
  /// file, empty, of another format (by name), or of a size that is no multiple of the id size.
  /// vocab_size 0 takes any id.
  TokenFile(std::string path, TokenDtype dtype, int64_t vocab_size, OpenFiles keep = OpenFiles::none);

  const std::string& path() const { return path_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t size_bytes() const;
  /// Adds name, size and FileSample to the hash. Throws DataError where the sample has ids outside
  /// the vocabulary, or ids of another width.
  void judge_sample(Hasher& hasher);
  /// Widens tokens [first, first + out.size()) to int64. Throws DataError for an id outside the
  /// vocabulary, with its place in the file, and where the file is no longer what it was.
  void read(int64_t first, std::span<int64_t> out) const;
  /// Reads the file from end to end, and its table of documents where it has one; returns the
  /// XXH3-128 of its bytes. Throws DataError for the first id outside the vocabulary, or a table
  /// that counts other tokens.
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
  std::string sample_hash_;               // empty: not judged yet
  std::shared_ptr<const DataFile> kept_;  // null: opened for each read
  mutable std::mutex mutex_;              // of what follows
  mutable int64_t modified_ns_ = 0;
};

/// Several token files as one list of instances of sequence_length tokens:
/// floor(tokens/sequence_length) of each file in path order; the tail of every file is left out
/// (OLMoE's rule).
class TokenDataset {
 public:
  /// Throws DataError listing the problems of all files at once (20 in words), from sizes, first
  /// bytes and samples. Where files are missing only sizes and first bytes are looked at, and the
  /// error says how token files are made. Kept open are the first files, up to half of what the
  /// process may open.
  TokenDataset(const std::vector<std::string>& paths, TokenDtype dtype, int64_t sequence_length, int64_t vocab_size,
               OpenFiles keep = OpenFiles::none);
  /// TokenFile::read_all of the files f with f mod parts == part, so that ranks can share the work:
  /// the hashes of these, in the places of the files, or one DataError for all of them.
  std::vector<std::string> read_all(int part = 0, int parts = 1) const;
  int64_t num_instances() const;
  int64_t num_tokens() const;
  int64_t sequence_length() const { return sequence_length_; }
  void read(int64_t instance, std::span<int64_t> out) const;
  /// XXH3-128 in hex over sequence length, names, sizes and FileSample of all files in order, as
  /// they were when this was made. Folders do not count: data may move.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  void judge_samples(std::vector<std::string>& problems);

  std::deque<TokenFile> files_;
  std::vector<int64_t> first_instance_;  // of each file, and the total at the end
  int64_t sequence_length_;
  std::string fingerprint_;
};

}  // namespace olmoe
