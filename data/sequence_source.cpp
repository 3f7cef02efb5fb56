#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"
#include "core/targets.h"
#include "data/data_loader.h"
#include "data/documents.h"
#include "data/fingerprint.h"
#include "data/sequence_order.h"
#include "data/token_files.h"

namespace olmoe {
namespace {

std::string hash_of(const std::string& text) {
  Hasher hasher;
  hasher.update(std::as_bytes(std::span(text)));
  return hasher.hex();
}

class FileSource final : public SequenceSource {
 public:
  FileSource(std::shared_ptr<const TokenDataset> dataset, uint64_t seed, bool shuffle, const std::string& all_bytes,
             std::shared_ptr<const DocumentTables> tables)
      : dataset_(std::move(dataset)),
        tables_(std::move(tables)),
        order_(dataset_->num_sequences(), seed),
        shuffle_(shuffle),
        fingerprint_(join_fingerprint(
            hash_of(dataset_->fingerprint() + " " +
                    (shuffle ? fmt::format("shuffled with seed {}", seed) : "in order") +
                    (tables_ ? fmt::format(", documents {}", tables_->fingerprint()) : "")),
            all_bytes.empty() || !tables_ ? all_bytes : hash_of(all_bytes + " " + tables_->fingerprint()))) {}

  int64_t sequence_length() const override { return dataset_->sequence_length(); }
  int64_t num_sequences() const override { return dataset_->num_sequences(); }
  void read(int64_t position, std::span<int64_t> out) const override { dataset_->read(sequence_at(position), out); }
  std::vector<int32_t> document_ends(int64_t position, std::span<const int64_t> ids) const override {
    if (!tables_) return {};
    const auto [file, first] = dataset_->place(sequence_at(position));
    return tables_->ends_within(file, first, std::ssize(ids));
  }
  std::string fingerprint() const override { return fingerprint_; }

 private:
  int64_t sequence_at(int64_t position) const { return shuffle_ ? order_.at(position) : position % num_sequences(); }

  std::shared_ptr<const TokenDataset> dataset_;
  std::shared_ptr<const DocumentTables> tables_;
  SequenceOrder order_;
  bool shuffle_;
  std::string fingerprint_;
};

class SyntheticSource final : public SequenceSource {
 public:
  SyntheticSource(int64_t sequence_length, int64_t vocab_size, uint64_t seed)
      : sequence_length_(sequence_length),
        noise_(seed, "synthetic tokens"),
        description_(
            fmt::format("synthetic, sequence length {}, vocabulary {}, seed {}", sequence_length, vocab_size, seed)) {
    ENSURE(sequence_length >= 1 && vocab_size >= 1, "synthetic data of {} tokens over a vocabulary of {}",
           sequence_length, vocab_size);
    // A permutation: every id stays equally likely at every position of a sequence.
    const SequenceOrder rule(vocab_size, seed);
    for (int64_t id = 0; id < vocab_size; ++id) successor_.push_back(rule.at(id));
  }

  int64_t sequence_length() const override { return sequence_length_; }
  int64_t num_sequences() const override { return std::numeric_limits<int64_t>::max(); }
  void read(int64_t position, std::span<int64_t> out) const override {
    ENSURE(static_cast<int64_t>(out.size()) == sequence_length_, "room for {} tokens, not {}", out.size(),
           sequence_length_);
    const auto first = static_cast<uint64_t>(position) * out.size();
    for (size_t i = 0; i < out.size(); ++i) {
      const uint64_t bits = noise_.bits(first + i);
      const bool random = i == 0 || bits % 8 == 0;
      out[i] =
          random ? static_cast<int64_t>((bits >> 3) % successor_.size()) : successor_[static_cast<size_t>(out[i - 1])];
    }
  }
  std::string fingerprint() const override { return hash_of(description_); }

 private:
  int64_t sequence_length_;
  RandomStream noise_;
  std::string description_;
  std::vector<int64_t> successor_;
};

}  // namespace

std::unique_ptr<SequenceSource> make_file_source(std::shared_ptr<const TokenDataset> dataset, uint64_t seed,
                                                 bool shuffle, const std::string& all_bytes,
                                                 std::shared_ptr<const DocumentTables> tables) {
  return std::make_unique<FileSource>(std::move(dataset), seed, shuffle, all_bytes, std::move(tables));
}

std::unique_ptr<SequenceSource> make_synthetic_source(int64_t sequence_length, int64_t vocab_size, uint64_t seed) {
  return std::make_unique<SyntheticSource>(sequence_length, vocab_size, seed);
}

namespace {

/// Appends the documents of sequence b of a micro-batch to the cumulative lengths of those before it.
void add_documents(std::vector<int32_t>& bounds, const std::vector<int32_t>& ends, int64_t b, int64_t sequence_length) {
  const bool divide = std::ranges::is_sorted(ends, std::ranges::less_equal()) && ends.front() > 0;
  ENSURE(divide && ends.back() == sequence_length, "sequence {} of a micro-batch: its documents do not divide it", b);
  ENSURE((b + 1) * sequence_length <= std::numeric_limits<int32_t>::max(),
         "micro-batch: documents in more than 2^31 - 1 tokens");
  for (const int32_t end : ends) bounds.push_back(static_cast<int32_t>(b * sequence_length + end));
}

}  // namespace

Batch make_batch(const SequenceSource& source, int64_t position, int64_t count) {
  ENSURE(position >= 0 && count >= 0, "batch of {} sequences at position {}", count, position);
  const int64_t sequence_length = source.sequence_length();
  Batch batch;
  batch.ids_BS = at::empty({count, sequence_length}, at::kLong);
  batch.targets_BS = at::empty({count, sequence_length}, at::kLong);
  batch.num_targets = count * (sequence_length - 1);
  std::vector<int32_t> bounds{0};
  for (int64_t b = 0; b < count; ++b) {
    int64_t* ids_S = batch.ids_BS.mutable_data_ptr<int64_t>() + b * sequence_length;
    int64_t* targets_S = batch.targets_BS.mutable_data_ptr<int64_t>() + b * sequence_length;
    source.read(position + b, {ids_S, static_cast<size_t>(sequence_length)});
    const std::span<const int64_t> ids(ids_S, static_cast<size_t>(sequence_length));
    const bool masked = source.is_masked(ids);
    batch.num_masked += masked ? 1 : 0;
    if (masked)
      std::fill_n(targets_S, sequence_length, kIgnoredTarget);
    else
      std::copy(ids_S + 1, ids_S + sequence_length, targets_S);
    targets_S[sequence_length - 1] = kIgnoredTarget;
    const auto ends = source.document_ends(position + b, ids);
    ENSURE(b == 0 || ends.empty() == (bounds.size() == 1), "sequence {} of a micro-batch: documents in some alone", b);
    if (!ends.empty()) add_documents(bounds, ends, b, sequence_length);
  }
  if (bounds.size() > 1) batch.bounds = batch.bounds_cpu = at::tensor(bounds, at::kInt);
  return batch;
}

}  // namespace olmoe
