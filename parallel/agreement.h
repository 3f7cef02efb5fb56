#pragma once
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// Does `work`, which makes no collective call, on every rank. Where it failed on some, every rank throws the same
/// error: that of the lowest of them, which it names unless all failed. The error's type (ConfigError, DataError,
/// CheckpointError, else Error) follows from its exit code. Collective over world.
void agree(Communicator& world, const std::function<void()>& work);

/// True for what agree() throws: every rank has this error, so that one may tell it for all.
bool is_agreed(const std::exception& error);

/// The text of rank `root`, on every rank. Collective over world.
std::string share_text(Communicator& world, int root, const std::string& mine);

/// Every rank's text, in rank order, cut to 1,023 bytes. Collective over world.
std::vector<std::string> gather_text(Communicator& world, const std::string& text);

}  // namespace olmoe
