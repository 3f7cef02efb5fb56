#include "parallel/agreement.h"

#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "core/error.h"
#include "parallel/error_text.h"

namespace olmoe {
namespace {

struct Agreed {
  virtual ~Agreed() = default;
};

template <class E>
struct AgreedError final : E, Agreed {
  using E::E;
};

[[noreturn]] void throw_agreed(const std::string& message, ExitCode code) {
  switch (code) {
    case ExitCode::config:
      throw AgreedError<ConfigError>(message);
    case ExitCode::data:
      throw AgreedError<DataError>(message);
    case ExitCode::checkpoint:
      throw AgreedError<CheckpointError>(message);
    default:
      throw AgreedError<Error>(message, code);
  }
}

}  // namespace

void agree(Communicator& world, const std::function<void()>& work) {
  std::string problem;
  auto code = ExitCode::ok;
  try {
    work();
  } catch (const std::exception& error) {
    code = exit_code_of(error);
    problem = error_text(error);
  }
  auto mine_1 = at::full({1}, static_cast<int64_t>(code), at::kLong), all_P = at::zeros({world.size()}, at::kLong);
  world.all_gather(all_P, mine_1);
  const auto* all = all_P.const_data_ptr<int64_t>();
  int lowest = 0, failed = 0;
  for (int rank = world.size() - 1; rank >= 0; --rank) {
    if (static_cast<ExitCode>(all[rank]) == ExitCode::ok) continue;
    lowest = rank;
    ++failed;
  }
  if (failed == 0) return;
  auto message = share_text(world, lowest, problem);
  if (failed < world.size()) {
    message = fmt::format("rank {}: {}", lowest, message);
    if (failed > 1) message += fmt::format(" ({} of {} ranks failed)", failed, world.size());
  }
  throw_agreed(message, static_cast<ExitCode>(all[lowest]));
}

bool is_agreed(const std::exception& error) { return dynamic_cast<const Agreed*>(&error) != nullptr; }

std::string share_text(Communicator& world, int root, const std::string& mine) {
  auto size_1 = at::full({1}, std::ssize(mine), at::kLong);
  world.broadcast(size_1, root);
  auto text = at::zeros({size_1.item<int64_t>() + 1}, at::kByte);  // not empty
  auto* bytes = text.mutable_data_ptr<uint8_t>();
  if (world.rank() == root) std::memcpy(bytes, mine.data(), mine.size());
  world.broadcast(text, root);
  return {reinterpret_cast<const char*>(bytes), static_cast<size_t>(text.numel() - 1)};
}

void gather_bytes(Communicator& group, std::span<const std::byte> mine, std::span<std::byte> all) {
  auto* own = const_cast<std::byte*>(mine.data());  // from_blob has no const form; only read
  group.all_gather(at::from_blob(all.data(), {std::ssize(all)}, at::kByte),
                   at::from_blob(own, {std::ssize(mine)}, at::kByte));
}

std::vector<std::string> gather_text(Communicator& world, const std::string& text) {
  constexpr size_t kTextBytes = 1024;
  using Record = std::array<char, kTextBytes>;
  Record record{};  // ends with at least one zero
  std::memcpy(record.data(), text.data(), std::min(text.size(), kTextBytes - 1));
  std::vector<std::string> out;
  for (const auto& theirs : gather_records<Record>(world, {&record, 1})) out.emplace_back(theirs.data());
  return out;
}

}  // namespace olmoe
