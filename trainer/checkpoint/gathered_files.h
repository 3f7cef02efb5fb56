#pragma once
#include <vector>

#include "parallel/collectives/communicator.h"
#include "trainer/checkpoint/checkpoint_manifest.h"

namespace olmoe {

/// The shard files of all ranks of `group`, on every rank, in rank order and named by it; `mine` is that of this rank.
/// Collective over group.
std::vector<Manifest::ShardFile> gather_files(Communicator& group, const Manifest::ShardFile& mine);

}  // namespace olmoe
