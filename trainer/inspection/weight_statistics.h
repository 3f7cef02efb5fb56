// Shapes: L layers with experts of their own, E experts of each.
#pragma once
#include <vector>

#include "parallel/collectives/communicator.h"
#include "trainer/analysis/statistic.h"
#include "trainer/conversion/saved_model.h"

namespace olmoe {

/// Similarity of experts by their weights: cosines of
///   similarity.experts [L, E, E]   all weights of an expert in a row: gate, up and down
///   similarity.routers [L', E, E]  rows of the router, of every layer with experts
/// Layers are shared out over the ranks. Throws CheckpointError on all ranks. Collective over world.
std::vector<NamedArray> expert_similarity(const SavedModel& saved, Communicator& world);

}  // namespace olmoe
