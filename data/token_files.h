#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace olmoe {

enum class TokenDtype { uint16, uint32 };

/// A header-less little-endian token file (what `dolma tokens` writes), memory-mapped read-only.
class TokenFile {
 public:
  /// Throws DataError naming the file: missing, not a file, empty, a size that is no multiple of
  /// the id size, or a NumPy array with a header.
  TokenFile(std::string path, TokenDtype dtype);
  ~TokenFile();
  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&&) = delete;

  const std::string& path() const { return path_; }
  int64_t num_tokens() const { return num_tokens_; }
  int64_t size_bytes() const;
  /// The file as it lies on disk.
  std::span<const std::byte> bytes() const;
  /// Widens tokens [first, first + out.size()) to int64.
  void read(int64_t first, std::span<int64_t> out) const;
  /// Throws DataError with file, offset and value of the first id >= vocab_size. Reads the whole
  /// file.
  void check_ids(int64_t vocab_size) const;

 private:
  std::string path_;
  TokenDtype dtype_;
  const void* data_ = nullptr;
  int64_t num_tokens_ = 0;
};

/// Several token files as one list of instances of sequence_length tokens:
/// floor(tokens/sequence_length) of each file in path order; the tail of every file is dropped
/// (OLMoE's rule).
class TokenDataset {
 public:
  /// Throws DataError listing the problems of all files at once (20 in words). Sizes come first:
  /// ids are read only when every file opens, so a missing file is not reported after hours of
  /// reading. vocab_size 0 reads no ids.
  TokenDataset(const std::vector<std::string>& paths, TokenDtype dtype, int64_t sequence_length,
               int64_t vocab_size);
  /// Throws DataError naming the ids >= vocab_size, the first of each file. Reads the files f with
  /// f mod parts == part, so that ranks can share the work.
  void check_ids(int64_t vocab_size, int part = 0, int parts = 1) const;
  int64_t num_instances() const;
  int64_t num_tokens() const;
  int64_t sequence_length() const { return sequence_length_; }
  void read(int64_t instance, std::span<int64_t> out) const;
  /// XXH3-128 in hex over names, sizes and sampled contents: tells on resume whether the data is
  /// the same. Files of up to 64 KiB count whole, of larger ones 16 blocks of 4 KiB. Folders do not
  /// count: data may move.
  std::string fingerprint() const;

 private:
  std::vector<TokenFile> files_;
  std::vector<int64_t> first_instance_;  // of each file, and the total at the end
  int64_t sequence_length_;
};

}  // namespace olmoe
