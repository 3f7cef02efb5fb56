#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "data/config.h"
#include "data/data_loader.h"

namespace olmoe {

/// The positions of a stream that training leaves out. The sequences after them move up: steps, schedule and counts of
/// tokens go on as if they had never been there. A position is one visit: in a later epoch its sequence comes again.
class SequenceSkip {
 public:
  struct Positions {
    int64_t begin, end;  ///< half-open
    bool operator==(const Positions&) const = default;
  };

  /// `ranges` in the order of the config, without problems; `sizes`: the sequences of each step.
  SequenceSkip(std::span<const SkipRange> ranges, const BatchSizes& sizes);
  /// The position, in the whole stream, of sequence `n` >= 0 of those that stay.
  int64_t position(int64_t n) const;
  /// The first sequence of those that stay whose position is another one in `other`; none where all are equal.
  std::optional<int64_t> first_difference(const SequenceSkip& other) const;
  /// Disjoint, in order, never next to each other.
  const std::vector<Positions>& positions() const { return positions_; }

 private:
  void add(Positions added);

  std::vector<Positions> positions_;
};

/// `source` without the positions of `skip`. Its fingerprint stays that of the whole stream.
std::shared_ptr<const SequenceSource> make_skipping_source(std::shared_ptr<const SequenceSource> source,
                                                           SequenceSkip skip);

}  // namespace olmoe
