#pragma once
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Runs `work`, which makes no collective call, on every rank. If it throws on any rank, all ranks throw the error of
/// the lowest failing rank, which is named unless all failed. Its type (ConfigError, DataError, CheckpointError, else
/// Error) follows from the exit code. Collective over world.
void agree(Communicator& world, const std::function<void()>& work);

/// True for an error that agree() threw: every rank has it, so that one may report it for all.
bool is_agreed(const std::exception& error);

/// The text of rank `root`, on every rank; `mine` is read on `root` only. Collective over world.
std::string share_text(Communicator& world, int root, const std::string& mine);

/// Every rank's text, in rank order, truncated to 1,023 bytes. Collective over world.
std::vector<std::string> gather_text(Communicator& world, const std::string& text);

}  // namespace olmoe
