#pragma once
#include <cstdint>
#include <memory>
#include <span>

#include "data/config.h"
#include "data/data_loader.h"

namespace olmoe {

/// Whether `ids` repeat themselves as `filter`, which is on, does not allow: somewhere repetition_max_count blocks of
/// one period, or more, follow each other and are equal. Blocks may begin anywhere; a period is a number of ids from
/// repetition_min_period to repetition_max_period. It depends on these ids alone.
// Source: the rule of allenai/OLMo's instance_filter, which looks at whole rows of one period and then at their edges.
bool repeats_itself(std::span<const int64_t> ids, const InstanceFilter& filter);

/// `source`, with the sequences masked that repeat themselves: they are computed and counted, but no target of theirs
/// has a loss. The outermost of all sources. Its fingerprint stays that of `source`.
std::shared_ptr<const SequenceSource> make_filtered_source(std::shared_ptr<const SequenceSource> source,
                                                           const InstanceFilter& filter);

}  // namespace olmoe
