#include "data/sequence_skip.h"

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace olmoe {
namespace {

class SkippingSource final : public SequenceSource {
 public:
  SkippingSource(std::shared_ptr<const SequenceSource> source, SequenceSkip skip)
      : source_(std::move(source)), skip_(std::move(skip)) {}

  int64_t sequence_length() const override { return source_->sequence_length(); }
  int64_t num_sequences() const override { return source_->num_sequences(); }
  void read(int64_t position, std::span<int64_t> out) const override { source_->read(skip_.position(position), out); }
  std::vector<int32_t> document_ends(int64_t position, std::span<const int64_t> ids) const override {
    return source_->document_ends(skip_.position(position), ids);
  }
  std::string fingerprint() const override { return source_->fingerprint(); }

 private:
  std::shared_ptr<const SequenceSource> source_;
  SequenceSkip skip_;
};

}  // namespace

SequenceSkip::SequenceSkip(std::span<const SkipRange> ranges, const BatchSizes& sizes) {
  for (const auto& [unit, first, last] : ranges)
    if (unit == SkipUnit::sequences)
      add({first, last + 1});
    else
      add({position(sizes.until(first - 1)), position(sizes.until(last) - 1) + 1});
}

void SequenceSkip::add(Positions added) {
  ENSURE(added.begin >= 0 && added.begin < added.end, "skipped positions [{}, {})", added.begin, added.end);
  std::vector<Positions> joined;
  for (const auto& range : positions_)
    if (range.end < added.begin || range.begin > added.end)
      joined.push_back(range);
    else
      added = {std::min(range.begin, added.begin), std::max(range.end, added.end)};
  joined.insert(std::ranges::upper_bound(joined, added.begin, {}, &Positions::begin), added);
  positions_ = std::move(joined);
}

int64_t SequenceSkip::position(int64_t n) const {
  ENSURE(n >= 0, "sequence {} of the stream", n);
  for (const auto& [begin, end] : positions_) {
    if (n < begin) break;
    n += end - begin;
  }
  return n;
}

std::optional<int64_t> SequenceSkip::first_difference(const SequenceSkip& other) const {
  const auto [ours, theirs] = std::ranges::mismatch(positions_, other.positions_);
  const bool all_ours = ours == positions_.end(), all_theirs = theirs == other.positions_.end();
  if (all_ours && all_theirs) return {};
  int64_t n = all_ours ? theirs->begin : all_theirs ? ours->begin : std::min(ours->begin, theirs->begin);
  for (const auto& [begin, end] : std::ranges::subrange(positions_.begin(), ours)) n -= end - begin;
  return n;
}

std::shared_ptr<const SequenceSource> make_skipping_source(std::shared_ptr<const SequenceSource> source,
                                                           SequenceSkip skip) {
  return std::make_shared<SkippingSource>(std::move(source), std::move(skip));
}

}  // namespace olmoe
