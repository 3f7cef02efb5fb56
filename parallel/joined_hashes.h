#pragma once
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// A hash over the hashes of many files, each computed by exactly one rank: that rank passes 32 hex digits, the others
/// an empty string. The result, 32 hex digits, is the same on all ranks. Throws Error for a hash of another form.
/// Collective over world, with equally many files on each rank.
std::string join_hashes(Communicator& world, const std::vector<std::string>& hashes);

}  // namespace olmoe
