#pragma once
#include <cstddef>
#include <exception>
#include <functional>
#include <span>
#include <string>
#include <type_traits>
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

/// Fills `all` with the bytes of every rank, in rank order. Throws Error unless it is group.size() times as long as
/// `mine`. Collective over group.
void gather_bytes(Communicator& group, std::span<const std::byte> mine, std::span<std::byte> all);

/// The records of every rank, in rank order: group.size() * mine.size() of them. Every rank passes equally many. They
/// are copied as bytes, so a pointer in T is not valid on other ranks. Collective over group.
template <class T>
requires std::is_trivially_copyable_v<T> std::vector<T> gather_records(Communicator& group, std::span<const T> mine) {
  std::vector<T> all(static_cast<size_t>(group.size()) * mine.size());
  gather_bytes(group, std::as_bytes(mine), std::as_writable_bytes(std::span(all)));
  return all;
}

/// Every rank's text, in rank order, truncated to 1,023 bytes. Collective over world.
std::vector<std::string> gather_text(Communicator& world, const std::string& text);

}  // namespace olmoe
