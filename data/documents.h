#pragma once
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/data_loader.h"

namespace olmoe {

class TokenDataset;

/// Where the documents of token files end, from the tables beside them. 8 bytes for each document are in memory.
class DocumentTables {
 public:
  /// Reads the table of every file of `dataset`. Throws one DataError for all that are missing, damaged, or of other
  /// files.
  explicit DocumentTables(const TokenDataset& dataset);
  /// The ends of the documents in tokens [first, first + length) of a file, counted from `first`, ascending; the last
  /// is `length`, where another document may be cut.
  std::vector<int32_t> ends_within(size_t file, int64_t first, int64_t length) const;
  int64_t num_documents() const;
  /// Of the ends, in host memory.
  int64_t size_bytes() const { return num_documents() * static_cast<int64_t>(sizeof(int64_t)); }
  /// A hash of all ends.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  std::vector<std::vector<int64_t>> ends_;  ///< of each file
  std::string fingerprint_;
};

/// "document tables: 671,039 documents, whose ends take 5.1 MiB of host memory on each rank".
std::string describe(const DocumentTables& tables);

/// `source`, whose documents end with the token `eos_id`, which belongs to the document that it ends. What a sequence
/// has after its last one is a document too: it goes on in no other sequence.
std::shared_ptr<const SequenceSource> make_eos_documents(std::shared_ptr<const SequenceSource> source, int64_t eos_id);

}  // namespace olmoe
