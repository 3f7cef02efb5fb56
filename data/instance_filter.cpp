#include "data/instance_filter.h"

#include <utility>

namespace olmoe {
namespace {

class FilteredSource final : public SequenceSource {
 public:
  FilteredSource(std::shared_ptr<const SequenceSource> source, const InstanceFilter& filter)
      : source_(std::move(source)), filter_(filter) {}

  int64_t sequence_length() const override { return source_->sequence_length(); }
  int64_t num_sequences() const override { return source_->num_sequences(); }
  void read(int64_t position, std::span<int64_t> out) const override { source_->read(position, out); }
  std::vector<int32_t> document_ends(int64_t position, std::span<const int64_t> ids) const override {
    return source_->document_ends(position, ids);
  }
  bool is_masked(std::span<const int64_t> ids) const override { return repeats_itself(ids, filter_); }
  std::string fingerprint() const override { return source_->fingerprint(); }

 private:
  std::shared_ptr<const SequenceSource> source_;
  InstanceFilter filter_;
};

}  // namespace

bool repeats_itself(std::span<const int64_t> ids, const InstanceFilter& filter) {
  const int64_t length = std::ssize(ids);
  for (int64_t period = filter.repetition_min_period; period <= filter.repetition_max_period; ++period) {
    const int64_t enough = (filter.repetition_max_count - 1) * period;  // ids that equal the one a period before
    if (length - period < enough) break;                                // and longer periods need more
    int64_t run = 0;
    for (int64_t i = period; i < length; ++i) {
      const auto at = static_cast<size_t>(i);
      run = ids[at] == ids[at - static_cast<size_t>(period)] ? run + 1 : 0;
      if (run == enough) return true;
    }
  }
  return false;
}

std::shared_ptr<const SequenceSource> make_filtered_source(std::shared_ptr<const SequenceSource> source,
                                                           const InstanceFilter& filter) {
  return std::make_shared<FilteredSource>(std::move(source), filter);
}

}  // namespace olmoe
