#include "data/document_table.h"

#include <zlib.h>

#include <filesystem>
#include <memory>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace olmoe {
namespace {

/// Parses CSV (RFC 4180) chunk by chunk and keeps the second field of the last row.
class LastEnd {
 public:
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
    }
    field_ = digits_ = 0;
    value_ = 0;
    empty_ = true;
  }

  std::optional<int64_t> last_;
  int64_t value_ = 0;
  int field_ = 0, digits_ = 0;
  bool quoted_ = false, good_ = true, empty_ = true;
};

}  // namespace

std::string table_path(const std::string& token_path) {
  return std::filesystem::path(token_path).replace_extension(".csv.gz").string();
}

std::optional<int64_t> tokens_in_table(const std::string& token_path) {
  constexpr unsigned kChunkBytes = 1 << 18;
  const auto path = table_path(token_path);
  std::error_code unknown;
  if (!std::filesystem::exists(path, unknown) && !unknown) return std::nullopt;
  const auto problem = [&](std::string_view what) {
    return DataError(fmt::format("{}: {}; tokenize again, or move it away if {} is right", path, what, token_path));
  };
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(::gzopen(path.c_str(), "rb"), ::gzclose);
  if (!file) throw problem("the document table cannot be opened");
  ::gzbuffer(file.get(), kChunkBytes);
  std::vector<char> chunk(kChunkBytes);
  LastEnd last;
  int count = 0;
  while ((count = ::gzread(file.get(), chunk.data(), kChunkBytes)) > 0)
    last.read({chunk.data(), static_cast<size_t>(count)});
  int code = Z_OK;
  ::gzerror(file.get(), &code);  // gzread reports no error for a truncated file
  if (count < 0 || code != Z_OK) throw problem("the document table is damaged or cut short");
  const auto end = last.finish();
  if (!end) throw problem("is not a document table with rows of start,end,id,source,line");
  return end;
}

}  // namespace olmoe
