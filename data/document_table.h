#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace olmoe {

/// Path of the document table of a token file: NAME.csv.gz beside NAME.npy, as `dolma tokens` and scripts/tokenize.py
/// write it. One row per document: start, end, id, source, line; start and end are in tokens.
std::string table_path(const std::string& token_path);

/// The number of tokens in the table of a token file, the `end` of its last row; nullopt if there is no table. Reads
/// the whole table: gzip has no random access. Throws DataError with the path of a table that is damaged, truncated,
/// without rows, or has other columns.
std::optional<int64_t> tokens_in_table(const std::string& token_path);

/// The `end` of every document of a token file of `num_tokens`, ascending, the last is num_tokens; those of documents
/// without tokens are left out. Throws DataError as tokens_in_table() does, and for a file without a table, rows that
/// are not in order, and another number of tokens.
std::vector<int64_t> document_ends(const std::string& token_path, int64_t num_tokens);

}  // namespace olmoe
