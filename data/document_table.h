#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace olmoe {

/// Path of the table of documents of a token file: NAME.csv.gz beside NAME.npy, as `dolma tokens`
/// and scripts/tokenize.py write it. One row a document: start, end, id, source, line; start and
/// end count tokens.
std::string table_path(const std::string& token_path);

/// Tokens that the table of a token file counts, which is the `end` of its last row; nullopt where
/// there is no table. Reads all of it: gzip has no other way to its last row. Throws DataError
/// naming the table: damaged, cut short, without rows, or with other columns.
std::optional<int64_t> tokens_in_table(const std::string& token_path);

}  // namespace olmoe
