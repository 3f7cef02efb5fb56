#pragma once
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// One hash, in hex, over those of many files, of which every rank has some (32 hex digits) and the others are empty:
/// each file's by exactly one rank. Collective over world.
std::string join_hashes(Communicator& world, const std::vector<std::string>& hashes);

}  // namespace olmoe
