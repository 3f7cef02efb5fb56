#include "data/document_table.h"

#include <zlib.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace olmoe {
namespace {

/// Parses CSV (RFC 4180) chunk by chunk and keeps the second field of the last row, and in `all` that of every row.
class Ends {
 public:
  explicit Ends(std::vector<int64_t>* all) : all_(all) {}
  void read(std::string_view text) {
    for (const char c : text) {
      if (c == '"')
        quoted_ = !quoted_;  // a doubled quote inside a field toggles twice
      else if (quoted_)
        continue;
      else if (c == '\n')
        end_row();
      else if (c == ',')
        ++field_;
      else if (field_ == 1)
        add_digit(c);
      else
        empty_ = false;
    }
  }

  /// The field at the end of the table; nullopt if there is no row, or a row without a number in that field.
  std::optional<int64_t> finish() {
    end_row();
    return good_ && !quoted_ ? last_ : std::nullopt;
  }

 private:
  void add_digit(char c) {
    constexpr int kMostDigits = 18;  // fit an int64
    if (c < '0' || c > '9' || ++digits_ > kMostDigits)
      good_ = false;
    else
      value_ = 10 * value_ + (c - '0');
  }

  void end_row() {
    if (field_ > 0 || !empty_) {
      good_ = good_ && digits_ > 0;
      last_ = value_;
      if (all_ && good_) all_->push_back(value_);
    }
    field_ = digits_ = 0;
    value_ = 0;
    empty_ = true;
  }

  std::vector<int64_t>* all_;
  std::optional<int64_t> last_;
  int64_t value_ = 0;
  int field_ = 0, digits_ = 0;
  bool quoted_ = false, good_ = true, empty_ = true;
};

DataError table_problem(const std::string& token_path, std::string_view what) {
  return DataError(
      fmt::format("{}: {}; tokenize again, or move it away if {} is right", table_path(token_path), what, token_path));
}

/// The end of the last document; nullopt if there is no table. `all`, if given, takes the ends of all.
std::optional<int64_t> read_table(const std::string& token_path, std::vector<int64_t>* all) {
  constexpr unsigned kChunkBytes = 1 << 18;
  const auto path = table_path(token_path);
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown) && !unknown) return std::nullopt;
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(::gzopen(path.c_str(), "rb"), ::gzclose);
  if (!file) throw table_problem(token_path, "the document table cannot be opened");
  ::gzbuffer(file.get(), kChunkBytes);
  std::vector<char> chunk(kChunkBytes);
  Ends ends(all);
  int count = 0;
  while ((count = ::gzread(file.get(), chunk.data(), kChunkBytes)) > 0)
    ends.read({chunk.data(), static_cast<size_t>(count)});
  int code = Z_OK;
  ::gzerror(file.get(), &code);  // gzread reports no error for a truncated file
  if (count < 0 || code != Z_OK) throw table_problem(token_path, "the document table is damaged or cut short");
  const auto end = ends.finish();
  if (!end) throw table_problem(token_path, "is not a document table with rows of start,end,id,source,line");
  return end;
}

}  // namespace

std::string table_path(const std::string& token_path) {
  return std::filesystem::path(token_path).replace_extension(".csv.gz").string();
}

std::optional<int64_t> tokens_in_table(const std::string& token_path) { return read_table(token_path, nullptr); }

std::vector<int64_t> document_ends(const std::string& token_path, int64_t num_tokens) {
  std::vector<int64_t> ends;
  const auto last = read_table(token_path, &ends);
  if (!last)
    throw DataError(
        fmt::format("{}: has no document table {}, which data.document_mask: table reads; tokenize again, "
                    "or use eos with data.eos_id",
                    token_path, table_path(token_path)));
  if (*last != num_tokens)
    throw table_problem(token_path, fmt::format("counts {} tokens of the {} in the file", *last, num_tokens));
  if (!std::ranges::is_sorted(ends)) throw table_problem(token_path, "documents are not in order");
  const auto repeated = std::ranges::unique(ends);
  ends.erase(repeated.begin(), repeated.end());
  if (ends.front() == 0) ends.erase(ends.begin());
  return ends;
}

}  // namespace olmoe
