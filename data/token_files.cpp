#include "data/token_files.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "core/error.h"
#include "core/integers.h"
#include "core/process/process_limits.h"
#include "data/config.h"
#include "data/document_table.h"
#include "data/file_sample.h"
#include "data/foreign_format.h"
#include "data/id_width.h"

namespace olmoe {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr size_t kListedProblems = 20;

int64_t id_bytes(TokenDtype dtype) { return dtype == TokenDtype::uint16 ? 2 : 4; }

std::string_view id_name(TokenDtype dtype) { return dtype == TokenDtype::uint16 ? "uint16" : "uint32"; }

/// Calls f<Id>() with the stored type of an id.
template <class F>
auto for_id_type(TokenDtype dtype, F&& f) {
  return dtype == TokenDtype::uint16 ? f.template operator()<uint16_t>() : f.template operator()<uint32_t>();
}

/// The size of a file of whole ids. Throws DataError for other sizes and known other formats.
int64_t checked_size(const DataFile& file, const std::string& path, TokenDtype dtype) {
  constexpr int64_t kHeadBytes = 4096;
  const int64_t size = file.state().size_bytes;
  if (size == 0) throw DataError(fmt::format("{}: is empty; remove it or tokenize again", path));
  std::vector<std::byte> head(static_cast<size_t>(std::min(size, kHeadBytes)));
  file.read(0, head);
  if (const auto problem = foreign_format(head); !problem.empty())
    throw DataError(fmt::format("{}: {}", path, problem));
  if (size % id_bytes(dtype) != 0)
    throw DataError(
        fmt::format("{}: {} bytes are not a multiple of {}, the size of a {} id; check data.dtype, or the file is "
                    "cut short",
                    path, size, id_bytes(dtype), id_name(dtype)));
  return size;
}

/// Index of the first id >= vocab_size, or -1. Blocks of fixed length let the compiler vectorize the inner maximum.
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

/// What to do about a file of ids of `bytes` bytes.
std::string width_advice(int64_t bytes) {
  if (bytes == 2) return "its ids are 2 bytes wide: set data.dtype: uint16";
  if (bytes == 4) return "its ids are 4 bytes wide: set data.dtype: uint32";
  return fmt::format("its ids are {} bytes wide, which no data.dtype reads: tokenize again", bytes);
}

/// Runs f and adds the text of its DataError to `problems`.
template <class F>
void collect_problem(std::vector<std::string>& problems, F&& f) {
  try {
    f();
  } catch (const DataError& error) {
    problems.emplace_back(error.what());
  }
}

void hash_number(Hasher& hasher, int64_t number) { hasher.update(std::as_bytes(std::span(&number, 1))); }

/// Token files to keep open: half of what this process may open, the rest is for others.
int64_t most_kept_files() {
  constexpr int64_t kMostMappings = 16'384;  // a quarter of the mappings that Linux allows a process
  return std::min(open_file_limit() / 2, kMostMappings);
}

std::string sample_hash(const FileSample& sample) {
  Hasher hasher;
  sample.hash(hasher);
  return hasher.hex();
}

}  // namespace

void throw_token_file_problems(const std::vector<std::string>& problems, size_t num_files, std::string_view advice) {
  if (problems.empty()) return;
  std::string text = fmt::format("{} of {} token files cannot be used:", problems.size(), num_files);
  const size_t listed = std::min(problems.size(), kListedProblems);
  for (size_t i = 0; i < listed; ++i) text += "\n  " + problems[i];
  if (problems.size() > listed) text += fmt::format("\n  and {} more", problems.size() - listed);
  if (!advice.empty()) text += fmt::format("\n{}", advice);
  throw DataError(text);
}

TokenFile::TokenFile(std::string path, TokenDtype dtype, int64_t vocab_size, OpenFiles keep)
    : path_(std::move(path)), dtype_(dtype), vocab_size_(vocab_size) {
  auto file = std::make_shared<const DataFile>(path_);
  num_tokens_ = checked_size(*file, path_, dtype) / id_bytes(dtype);
  modified_ns_ = file->state().modified_ns;
  if (keep == OpenFiles::none) return;
  file->advise(DataFile::Access::random);
  kept_ = std::move(file);
}

int64_t TokenFile::size_bytes() const { return num_tokens_ * id_bytes(dtype_); }

std::shared_ptr<const DataFile> TokenFile::open() const {
  return kept_ ? kept_ : std::make_shared<const DataFile>(path_);
}

/// A new time of modification alone is accepted if the sample is unchanged: files are touched to keep them from being
/// cleaned up.
void TokenFile::check_unchanged(const DataFile& file) const {
  const auto now = file.state();
  constexpr std::string_view kAdvice =
      "training data must not change during a run: restore the file, then start again to resume from the newest "
      "checkpoint";
  if (now.size_bytes != size_bytes())
    throw DataError(fmt::format("{}: had {} bytes when this run began and has {} now; {}", path_, size_bytes(),
                                now.size_bytes, kAdvice));
  const std::lock_guard lock(mutex_);
  if (now.modified_ns == modified_ns_ || sample_hash_.empty()) return;
  if (sample_hash(FileSample::read(file, size_bytes())) != sample_hash_)
    throw DataError(fmt::format("{}: its tokens changed since this run began; {}", path_, kAdvice));
  modified_ns_ = now.modified_ns;
}

template <class Id>
void TokenFile::check_ids(std::span<const Id> ids, int64_t first) const {
  if (vocab_size_ == 0) return;
  const int64_t at = first_outside(ids, vocab_size_);
  if (at < 0) return;
  throw DataError(fmt::format(
      "{}: id {} at token {} (byte {}) is outside the vocabulary of {}; check data.dtype ({}), the "
      "tokenizer and model.vocab_size",
      path_, ids[static_cast<size_t>(at)], first + at, (first + at) * id_bytes(dtype_), vocab_size_, id_name(dtype_)));
}

void TokenFile::check_sample(Hasher& hasher) {
  const auto file = open();
  check_unchanged(*file);
  const auto sample = FileSample::read(*file, size_bytes());
  sample_hash_ = sample_hash(sample);
  const std::string name = std::filesystem::path(path_).filename();
  hash_number(hasher, static_cast<int64_t>(name.size()));
  hasher.update(std::as_bytes(std::span(name)));
  hash_number(hasher, size_bytes());
  hash_number(hasher, num_tokens_);  // differs between 2-byte and 4-byte ids
  sample.hash(hasher);
  if (const auto bytes = wider_id_bytes(sample, id_bytes(dtype_)); bytes > 0)
    throw DataError(fmt::format("{}: read as {}, every second id is the zero upper half of another; {}", path_,
                                id_name(dtype_), width_advice(bytes)));
  for_id_type(dtype_, [&]<class Id>() {
    for (const auto& block : sample.blocks) {
      // The index of the first whole id of the block.
      const int64_t first = ceil_div(block.offset, id_bytes(dtype_));
      const auto bytes = std::span(block.bytes).subspan(static_cast<size_t>(first * id_bytes(dtype_) - block.offset));
      std::vector<Id> ids(bytes.size() / sizeof(Id));
      std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(Id));
      check_ids(std::span<const Id>(ids), first);
    }
  });
}

void TokenFile::read(int64_t first, std::span<int64_t> out) const {
  const auto count = static_cast<int64_t>(out.size());
  ENSURE(first >= 0 && count <= num_tokens_ - first, "{}: tokens [{}, {}) of {}", path_, first, first + count,
         num_tokens_);
  const auto file = open();
  check_unchanged(*file);
  for_id_type(dtype_, [&]<class Id>() {
    std::vector<Id> ids(out.size());
    file->read(first * id_bytes(dtype_), std::as_writable_bytes(std::span(ids)));
    check_ids(std::span<const Id>(ids), first);
    std::copy(ids.begin(), ids.end(), out.begin());
  });
}

void TokenFile::check_table() const {
  const auto counted = tokens_in_table(path_);
  if (!counted || *counted == num_tokens_) return;
  std::string advice = num_tokens_ < *counted
                           ? "the file is cut short, or the table is of another file"
                           : "the table is cut short or of another file, or its writer was interrupted";
  for (const int64_t bytes : {2, 4, 8})
    if (*counted * bytes == size_bytes()) advice = width_advice(bytes);
  throw DataError(fmt::format("{}: has {} {} ids, but its table {} counts {} tokens: {}", path_, num_tokens_,
                              id_name(dtype_), table_path(path_), *counted, advice));
}

std::string TokenFile::read_all() const {
  constexpr int64_t kChunkBytes = 1 << 18;
  check_table();
  const DataFile file(path_);
  file.advise(DataFile::Access::sequential);
  check_unchanged(file);
  Hasher hasher;
  for_id_type(dtype_, [&]<class Id>() {
    std::vector<Id> chunk(static_cast<size_t>(std::min<int64_t>(num_tokens_, kChunkBytes / id_bytes(dtype_))));
    for (int64_t first = 0; first < num_tokens_; first += std::ssize(chunk)) {
      const auto ids =
          std::span(chunk).first(static_cast<size_t>(std::min<int64_t>(std::ssize(chunk), num_tokens_ - first)));
      file.read(first * id_bytes(dtype_), std::as_writable_bytes(ids));
      hasher.update(std::as_bytes(ids));
      check_ids(std::span<const Id>(ids), first);
    }
  });
  return hasher.hex();
}

TokenDataset::TokenDataset(const std::vector<std::string>& paths, TokenDtype dtype, int64_t sequence_length,
                           int64_t vocab_size, OpenFiles keep)
    : sequence_length_(sequence_length) {
  ENSURE(sequence_length >= 1, "a sequence needs at least one token, got {}", sequence_length);
  if (paths.empty()) throw DataError("no token files; name some in data.paths or data.paths_file");
  std::vector<std::string> problems;
  int64_t to_keep = keep == OpenFiles::none ? 0 : most_kept_files();
  for (const std::string& path : paths)
    collect_problem(problems, [&] {
      const auto kept = to_keep-- > 0 ? OpenFiles::kept : OpenFiles::none;
      files_.emplace_back(path, dtype, vocab_size, kept);
    });
  if (!problems.empty() && !missing_files(paths).empty())
    throw_token_file_problems(problems, paths.size(), kHowTokensAreMade);
  check_samples(problems);  // also after problems: a wrong dtype may show in the sizes of some files, the ids of others
  throw_token_file_problems(problems, paths.size());

  first_sequence_.push_back(0);
  for (const TokenFile& file : files_)
    first_sequence_.push_back(first_sequence_.back() + file.num_tokens() / sequence_length);
  if (num_sequences() == 0)
    throw DataError(
        fmt::format("no token file ({} in all, the first is {}) holds a whole sequence of {} "
                    "tokens; lower data.sequence_length or add data",
                    files_.size(), files_[0].path(), sequence_length));
}

void TokenDataset::check_samples(std::vector<std::string>& problems) {
  Hasher hasher;
  hash_number(hasher, sequence_length_);
  for (TokenFile& file : files_) collect_problem(problems, [&] { file.check_sample(hasher); });
  fingerprint_ = hasher.hex();
}

std::vector<std::string> TokenDataset::read_all(int part, int parts) const {
  std::vector<std::string> problems, hashes(files_.size());
  for (auto f = static_cast<size_t>(part); f < files_.size(); f += static_cast<size_t>(parts))
    collect_problem(problems, [&] { hashes[f] = files_[f].read_all(); });
  throw_token_file_problems(problems, files_.size());
  return hashes;
}

int64_t TokenDataset::num_sequences() const { return first_sequence_.back(); }

int64_t TokenDataset::num_tokens() const { return num_sequences() * sequence_length_; }

TokenDataset::Place TokenDataset::place(int64_t sequence) const {
  ENSURE(sequence >= 0 && sequence < num_sequences(), "sequence {} of {}", sequence, num_sequences());
  // The last file that begins at or before the sequence. A file without a whole sequence begins where the next one
  // does.
  const auto after = std::upper_bound(first_sequence_.begin(), first_sequence_.end(), sequence);
  const auto file = static_cast<size_t>(after - first_sequence_.begin() - 1);
  return {file, (sequence - first_sequence_[file]) * sequence_length_};
}

void TokenDataset::read(int64_t sequence, std::span<int64_t> out) const {
  ENSURE(static_cast<int64_t>(out.size()) == sequence_length_, "room for {} tokens, not {}", out.size(),
         sequence_length_);
  const auto [file, first] = place(sequence);
  files_[file].read(first, out);
}

}  // namespace olmoe
