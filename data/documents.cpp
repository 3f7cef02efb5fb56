#include "data/documents.h"

#include <algorithm>
#include <utility>

#include "core/error.h"
#include "core/hash.h"
#include "core/text.h"
#include "data/document_table.h"
#include "data/token_files.h"

namespace olmoe {
namespace {

class EosDocuments final : public SequenceSource {
 public:
  EosDocuments(std::shared_ptr<const SequenceSource> source, int64_t eos_id)
      : source_(std::move(source)), eos_id_(eos_id) {}

  int64_t sequence_length() const override { return source_->sequence_length(); }
  int64_t num_sequences() const override { return source_->num_sequences(); }
  void read(int64_t position, std::span<int64_t> out) const override { source_->read(position, out); }
  std::vector<int32_t> document_ends(int64_t, std::span<const int64_t> ids) const override {
    std::vector<int32_t> ends;
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i] == eos_id_ || i + 1 == ids.size()) ends.push_back(static_cast<int32_t>(i + 1));
    return ends;
  }
  std::string fingerprint() const override { return source_->fingerprint(); }

 private:
  std::shared_ptr<const SequenceSource> source_;
  int64_t eos_id_;
};

}  // namespace

DocumentTables::DocumentTables(const TokenDataset& dataset) {
  std::vector<std::string> problems;
  Hasher hasher;
  for (size_t file = 0; file < dataset.num_files(); ++file) try {
      auto& ends = ends_.emplace_back(document_ends(dataset.path(file), dataset.file_tokens(file)));
      ends.shrink_to_fit();
      hasher.update(std::as_bytes(std::span(ends)));
    } catch (const DataError& error) {
      problems.emplace_back(error.what());
    }
  throw_token_file_problems(problems, dataset.num_files());
  fingerprint_ = hasher.hex();
}

std::vector<int32_t> DocumentTables::ends_within(size_t file, int64_t first, int64_t length) const {
  const auto& ends = ends_.at(file);
  std::vector<int32_t> out;
  for (auto end = std::ranges::upper_bound(ends, first); end != ends.end() && *end < first + length; ++end)
    out.push_back(static_cast<int32_t>(*end - first));
  out.push_back(static_cast<int32_t>(length));
  return out;
}

int64_t DocumentTables::num_documents() const {
  int64_t count = 0;
  for (const auto& ends : ends_) count += std::ssize(ends);
  return count;
}

std::string describe(const DocumentTables& tables) {
  return fmt::format("document tables: {}, whose ends take {} of host memory on each rank",
                     counted(tables.num_documents(), "document"), describe_size(tables.size_bytes()));
}

std::shared_ptr<const SequenceSource> make_eos_documents(std::shared_ptr<const SequenceSource> source, int64_t eos_id) {
  return std::make_shared<EosDocuments>(std::move(source), eos_id);
}

}  // namespace olmoe
