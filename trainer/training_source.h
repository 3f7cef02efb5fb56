#pragma once
#include <memory>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The training tokens of a config, without those of data.skip, masked by data.instance_filter. Every rank opens all
/// files and reads the ids of its share of them. Throws DataError on all ranks for files that are missing or damaged.
/// Collective over world.
std::shared_ptr<const SequenceSource> make_source(const Config& config, Communicator& world);

}  // namespace olmoe
