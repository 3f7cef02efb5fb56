#pragma once
#include <memory>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/analysis/routing_record.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The training tokens of a config, without those of data.skip, masked by data.instance_filter. Every rank opens all
/// files and reads the ids of its share of them. Throws DataError on all ranks for files that are missing or damaged.
/// Collective over world.
std::shared_ptr<const SequenceSource> make_source(const Config& config, Communicator& world);

/// The routing record of train.replay_routing; null without one. Throws DataError on all ranks. Collective over world.
std::unique_ptr<const RoutingRecord> open_record(const Config& config, Communicator& world);
/// A batch in host memory with the experts of `record`, where there is one. Throws DataError for a sequence that it
/// does not have.
Batch replayed(Batch batch, const RoutingRecord* record);

}  // namespace olmoe
