#include "data/token_files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/process_limits.h"

namespace olmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr size_t kListedProblems = 20;
constexpr int64_t kSampledBlocks = 16;
constexpr int64_t kBlockBytes = 4096;

int64_t id_bytes(TokenDtype dtype) { return dtype == TokenDtype::uint16 ? 2 : 4; }

std::string_view id_name(TokenDtype dtype) {
  return dtype == TokenDtype::uint16 ? "uint16" : "uint32";
}

/// Calls f with the ids as a span of their stored type.
template <class F>
auto with_ids(TokenDtype dtype, const void* data, int64_t num_tokens, F&& f) {
  const auto n = static_cast<size_t>(num_tokens);
  if (dtype == TokenDtype::uint16) return f(std::span(static_cast<const uint16_t*>(data), n));
  return f(std::span(static_cast<const uint32_t*>(data), n));
}

/// Size of a regular, non-empty file of whole ids; DataError otherwise. stat and not open: opening
/// a pipe would block.
int64_t checked_size(const std::string& path, TokenDtype dtype) {
  struct stat info;
  if (::stat(path.c_str(), &info) != 0)
    throw DataError(fmt::format("{}: {}; check data.paths, data.paths_file and data.root", path,
                                std::strerror(errno)));
  if (S_ISDIR(info.st_mode))
    throw DataError(fmt::format("{}: is a folder; list the token files in it", path));
  if (!S_ISREG(info.st_mode)) throw DataError(fmt::format("{}: is not a regular file", path));
  if (info.st_size == 0)
    throw DataError(fmt::format("{}: is empty; remove it or tokenize again", path));
  if (info.st_size % id_bytes(dtype) != 0)
    throw DataError(
        fmt::format("{}: {} bytes are no multiple of {}, the size of a {} id; check data.dtype, or "
                    "the file is cut short",
                    path, static_cast<int64_t>(info.st_size), id_bytes(dtype), id_name(dtype)));
  return info.st_size;
}

/// Maps a whole file read-only.
const void* map_file(const std::string& path, int64_t size_bytes) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) {
    const int reason = errno;
    throw DataError(fmt::format("{}: cannot open: {}{}", path, std::strerror(reason), limit_behind(reason)));
  }
  void* data = ::mmap(nullptr, static_cast<size_t>(size_bytes), PROT_READ, MAP_SHARED, fd, 0);
  const int error = errno;
  ::close(fd);
  if (data == MAP_FAILED)
    throw DataError(
        fmt::format("{}: cannot map {} bytes: {}{}", path, size_bytes, std::strerror(error), limit_behind(error)));
  return data;
}

/// Index of the first id >= vocab_size, or -1. Blocks of fixed length, so that the inner maximum
/// becomes vector code.
template <class Id>
int64_t first_outside(std::span<const Id> ids, int64_t vocab_size) {
  constexpr size_t kBlock = 1024;
  const auto outside = [vocab_size](Id id) { return static_cast<int64_t>(id) >= vocab_size; };
  size_t first = 0;
  for (; first + kBlock <= ids.size(); first += kBlock) {
    Id largest = 0;
    for (size_t i = 0; i < kBlock; ++i) largest = std::max(largest, ids[first + i]);
    if (outside(largest)) break;
  }
  const auto found = std::find_if(ids.begin() + static_cast<ptrdiff_t>(first), ids.end(), outside);
  return found == ids.end() ? -1 : found - ids.begin();
}

/// Throws DataError naming the problems, the first of them in words.
void throw_problems(const std::vector<std::string>& problems, size_t num_files) {
  if (problems.empty()) return;
  std::string text =
      fmt::format("{} of {} token files cannot be used:", problems.size(), num_files);
  const size_t listed = std::min(problems.size(), kListedProblems);
  for (size_t i = 0; i < listed; ++i) text += "\n  " + problems[i];
  if (problems.size() > listed) text += fmt::format("\n  and {} more", problems.size() - listed);
  throw DataError(text);
}

/// Runs f and keeps the text of its DataError.
template <class F>
void collect_problem(std::vector<std::string>& problems, F&& f) {
  try {
    f();
  } catch (const DataError& error) {
    problems.emplace_back(error.what());
  }
}

void hash_number(Hasher& hasher, int64_t number) {
  hasher.update(std::as_bytes(std::span(&number, 1)));
}

/// Name, size and evenly spaced blocks from the first to the last byte.
void hash_file_sample(Hasher& hasher, const TokenFile& file) {
  const std::string name = std::filesystem::path(file.path()).filename();
  hash_number(hasher, static_cast<int64_t>(name.size()));
  hasher.update(std::as_bytes(std::span(name)));
  hash_number(hasher, file.size_bytes());
  hash_number(hasher, file.num_tokens());  // of 2 or of 4 bytes
  const std::span<const std::byte> bytes = file.bytes();
  if (file.size_bytes() <= kSampledBlocks * kBlockBytes) return hasher.update(bytes);
  const int64_t last = file.size_bytes() - kBlockBytes;
  const int64_t stride = last / (kSampledBlocks - 1);
  for (int64_t i = 0; i < kSampledBlocks; ++i) {
    const int64_t first = i == kSampledBlocks - 1 ? last : i * stride;
    hasher.update(bytes.subspan(static_cast<size_t>(first), kBlockBytes));
  }
}

}  // namespace

TokenFile::TokenFile(std::string path, TokenDtype dtype) : path_(std::move(path)), dtype_(dtype) {
  constexpr std::string_view kNumpyMagic = "\x93NUMPY";
  const int64_t file_bytes = checked_size(path_, dtype);
  data_ = map_file(path_, file_bytes);
  num_tokens_ = file_bytes / id_bytes(dtype);
  ::madvise(const_cast<void*>(data_), static_cast<size_t>(file_bytes), MADV_RANDOM);
  const std::string_view text(static_cast<const char*>(data_), static_cast<size_t>(file_bytes));
  if (text.starts_with(kNumpyMagic)) {
    ::munmap(const_cast<void*>(data_), static_cast<size_t>(file_bytes));
    throw DataError(
        fmt::format("{}: is a NumPy array with a header; save its bytes alone (tofile)", path_));
  }
}

TokenFile::TokenFile(TokenFile&& other) noexcept
    : path_(std::move(other.path_)),
      dtype_(other.dtype_),
      data_(std::exchange(other.data_, nullptr)),
      num_tokens_(std::exchange(other.num_tokens_, 0)) {}

TokenFile::~TokenFile() {
  if (data_) ::munmap(const_cast<void*>(data_), static_cast<size_t>(size_bytes()));
}

int64_t TokenFile::size_bytes() const { return num_tokens_ * id_bytes(dtype_); }

std::span<const std::byte> TokenFile::bytes() const {
  return {static_cast<const std::byte*>(data_), static_cast<size_t>(size_bytes())};
}

void TokenFile::read(int64_t first, std::span<int64_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  ENSURE(first >= 0 && count <= num_tokens_ - first, "{}: tokens [{}, {}) of {}", path_, first,
         first + count, num_tokens_);
  with_ids(dtype_, data_, num_tokens_,
           [&](auto ids) { std::copy_n(ids.begin() + first, out.size(), out.begin()); });
}

void TokenFile::check_ids(int64_t vocab_size) const {
  void* const data = const_cast<void*>(data_);
  const auto length = static_cast<size_t>(size_bytes());
  ::madvise(data, length, MADV_SEQUENTIAL);
  const int64_t token = with_ids(dtype_, data_, num_tokens_,
                                 [&](auto ids) { return first_outside(ids, vocab_size); });
  ::madvise(data, length, MADV_RANDOM);
  if (token < 0) return;
  int64_t id = 0;
  read(token, std::span(&id, 1));
  throw DataError(
      fmt::format("{}: id {} at token {} (byte {}) is outside the vocabulary of {}; check "
                  "data.dtype ({}), the tokenizer "
                  "and model.vocab_size",
                  path_, id, token, token * id_bytes(dtype_), vocab_size, id_name(dtype_)));
}

TokenDataset::TokenDataset(const std::vector<std::string>& paths, TokenDtype dtype,
                           int64_t sequence_length, int64_t vocab_size)
    : sequence_length_(sequence_length) {
  ENSURE(sequence_length >= 1, "a sequence needs at least one token, got {}", sequence_length);
  if (paths.empty()) throw DataError("no token files; name some in data.paths or data.paths_file");
  std::vector<std::string> problems;
  files_.reserve(paths.size());
  for (const std::string& path : paths)
    collect_problem(problems, [&] { files_.emplace_back(path, dtype); });
  throw_problems(problems, paths.size());
  if (vocab_size > 0) check_ids(vocab_size);

  first_instance_.push_back(0);
  for (const TokenFile& file : files_)
    first_instance_.push_back(first_instance_.back() + file.num_tokens() / sequence_length);
  if (num_instances() == 0)
    throw DataError(
        fmt::format("no token file ({} in all, the first is {}) holds a whole sequence of {} "
                    "tokens; lower data.sequence_length or add data",
                    files_.size(), files_[0].path(), sequence_length));
}

void TokenDataset::check_ids(int64_t vocab_size, int part, int parts) const {
  std::vector<std::string> problems;
  for (auto f = static_cast<size_t>(part); f < files_.size(); f += static_cast<size_t>(parts))
    collect_problem(problems, [&] { files_[f].check_ids(vocab_size); });
  throw_problems(problems, files_.size());
}

int64_t TokenDataset::num_instances() const { return first_instance_.back(); }

int64_t TokenDataset::num_tokens() const { return num_instances() * sequence_length_; }

void TokenDataset::read(int64_t instance, std::span<int64_t> out) const {
  ENSURE(instance >= 0 && instance < num_instances(), "instance {} of {}", instance,
         num_instances());
  ENSURE(static_cast<int64_t>(out.size()) == sequence_length_, "room for {} tokens, not {}",
         out.size(), sequence_length_);
  // The last file that begins at or before the instance: files without a whole sequence begin where
  // the next does.
  const auto after = std::upper_bound(first_instance_.begin(), first_instance_.end(), instance);
  const auto file = static_cast<size_t>(after - first_instance_.begin() - 1);
  files_[file].read((instance - first_instance_[file]) * sequence_length_, out);
}

std::string TokenDataset::fingerprint() const {
  Hasher hasher;
  hash_number(hasher, sequence_length_);
  for (const TokenFile& file : files_) hash_file_sample(hasher, file);
  return hasher.hex();
}

}  // namespace olmoe
