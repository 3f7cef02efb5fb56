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

/// Does `work`, which makes no collective call, on every rank. Where it failed on some, every rank throws the same
/// error: that of the lowest of them, which it names unless all failed. The error's type (ConfigError, DataError,
/// CheckpointError, else Error) follows from its exit code. Collective over world.
void agree(Communicator& world, const std::function<void()>& work);

/// True for what agree() throws: every rank has this error, so that one may tell it for all.
bool is_agreed(const std::exception& error);

/// The text of rank `root`, on every rank. Collective over world.
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

/// Every rank's text, in rank order, cut to 1,023 bytes. Collective over world.
std::vector<std::string> gather_text(Communicator& world, const std::string& text);

}  // namespace olmoe
