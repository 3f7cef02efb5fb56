#include "trainer/checkpoint/checkpointer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"
#include "core/files/safetensors.h"
#include "core/hash.h"
#include "core/log.h"
#include "parallel/agreement.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/staged_bytes.h"
#include "trainer/checkpoint/state_guard.h"
#include "trainer/checkpoint/tensor_pieces.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
constexpr size_t kHashDigits = 32;
constexpr const char* kDiverged =
    "Nothing was saved, and checkpoints saved before stay. The run diverged: start it again, which goes on from the "
    "newest of them, with a lower optimizer.lr";

/// Tensor names inside a shard file: kind, parameter, first element.
std::string piece_name(const std::string& kind, const Slice& slice) {
  return fmt::format("{}:{}:{}", kind, slice.name, slice.begin);
}

/// All ranks do their part of `what`, or all throw the CheckpointError of one that could not. Collective over world.
void together(Communicator& world, const std::string& what, const std::function<void()>& work) {
  agree(world, [&] {
    try {
      work();
    } catch (const std::exception& error) {
      throw CheckpointError(fmt::format("cannot {}: {}", what, error.what()));
    }
  });
}

/// A flat tensor as the writer takes it: one in host memory as it lies there, one on a GPU piece by piece in its turn,
/// so that a save needs one piece of host memory and not the whole state.
safetensors::Item file_item(std::string name, const at::Tensor& flat, StagedBytes& staged) {
  const auto dtype = flat.scalar_type() == at::kDouble ? safetensors::Dtype::f64 : safetensors::Dtype::f32;
  safetensors::Item item{std::move(name), dtype, {flat.numel()}};
  if (flat.is_cpu())
    item.bytes = {static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()};
  else
    item.produce = [flat, &staged](const safetensors::Sink& sink) { staged.read(flat, sink); };
  return item;
}

/// What every rank wrote, on every rank, in rank order.
std::vector<Manifest::ShardFile> gather_files(Communicator& group, const Manifest::ShardFile& mine) {
  constexpr int64_t kRecord = sizeof(int64_t) + kHashDigits;
  auto record = at::zeros({kRecord}, at::kByte);
  auto all = at::zeros({kRecord * group.size()}, at::kByte);
  std::memcpy(record.data_ptr(), &mine.size_bytes, sizeof(int64_t));
  std::memcpy(record.data_ptr<uint8_t>() + sizeof(int64_t), mine.xxh3_128.data(), kHashDigits);
  group.all_gather(all, record);
  std::vector<Manifest::ShardFile> files;
  for (int rank = 0; rank < group.size(); ++rank) {
    const auto* at = all.data_ptr<uint8_t>() + rank * kRecord;
    Manifest::ShardFile file{shard_name(rank), 0, {}};
    std::memcpy(&file.size_bytes, at, sizeof(int64_t));
    file.xxh3_128.assign(reinterpret_cast<const char*>(at) + sizeof(int64_t), kHashDigits);
    files.push_back(std::move(file));
  }
  return files;
}

/// What is wrong with a file of a checkpoint in `folder`; empty: nothing.
std::string problem_of(const Manifest::ShardFile& file, const std::string& folder) {
  const auto path = folder + "/" + file.name;
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return fmt::format("{}: {}", path, error.message());
  if (static_cast<int64_t>(size) != file.size_bytes)
    return fmt::format("{}: {} bytes, but its manifest says {}", path, size, file.size_bytes);
  if (hash_file(path) != file.xxh3_128) return fmt::format("{}: damaged, its hash is not that of its manifest", path);
  return {};
}

}  // namespace

Checkpointer::Checkpointer(std::string folder, DeviceMesh& mesh, int64_t keep)
    : folder_(std::move(folder)), mesh_(mesh), keep_(keep) {}

std::string Checkpointer::step_folder(int64_t step) const { return fmt::format("{}/{}", folder_, step_name(step)); }

std::optional<int64_t> Checkpointer::latest_step() const {
  constexpr int64_t kNone = -1;
  auto& world = mesh_.world();
  auto newest = at::full({1}, kNone, at::kLong);
  together(world, fmt::format("look for checkpoints in {}", folder_), [&] {
    if (world.rank() != 0) return;
    if (const auto steps = complete_steps(folder_); !steps.empty()) newest.fill_(steps.back());
  });
  world.broadcast(newest, 0);
  const auto step = newest.item<int64_t>();
  return step == kNone ? std::nullopt : std::optional(step);
}

int64_t shard_bytes(std::span<const StateTensor> state) {
  int64_t bytes = 0;
  for (const auto& tensor : state)
    for (const auto& slice : tensor.unit->slices())
      bytes += (slice.end - slice.begin) * static_cast<int64_t>(tensor.flat.element_size());
  return bytes;
}

Manifest::ShardFile Checkpointer::write_shard(const std::string& folder, std::span<const StateTensor> state) const {
  constexpr int64_t kPieceBytes = 64 << 20;
  StagedBytes staged(kPieceBytes);
  std::vector<safetensors::Item> items;
  for (const auto& tensor : state)
    for (const auto& slice : tensor.unit->slices())
      items.push_back(file_item(piece_name(tensor.kind, slice),
                                tensor.flat.narrow(0, slice.offset, slice.end - slice.begin), staged));
  const auto name = shard_name(mesh_.shard().rank());
  const auto written = safetensors::write(folder + "/" + name, std::move(items), {{"format", "olmoe-shard"}});
  return {name, written.size_bytes, written.xxh3_128};
}

void Checkpointer::save(Manifest manifest, std::span<const StateTensor> state) {
  auto& world = mesh_.world();
  ensure_finite(world, state, fmt::format("step {}", manifest.step), kDiverged);
  const auto temporary = fmt::format("{}/{}", folder_, temporary_name(manifest.step));
  try {
    write(manifest, state, temporary);
  } catch (const CheckpointError&) {  // of all ranks: none writes there any more
    if (world.rank() == 0) remove_leftovers(folder_);
    throw;
  }
  if (world.rank() == 0) clean_up();
}

void Checkpointer::write(Manifest& manifest, std::span<const StateTensor> state, const std::string& temporary) const {
  auto& world = mesh_.world();
  const auto final_folder = step_folder(manifest.step);
  const int64_t needed_bytes = shard_bytes(state) * mesh_.shard().size();
  const auto attempt = [&](bool mine, const std::function<void()>& work) {
    together(world, fmt::format("save step {}", manifest.step), [&] {
      if (mine) write_to_disk(folder_, needed_bytes, work);
    });
  };
  attempt(world.rank() == 0, [&] {
    fs::create_directories(folder_);
    fsync_folder(fs::path(folder_).parent_path());
    fs::remove_all(temporary);
    fs::create_directory(temporary);
  });
  Manifest::ShardFile mine{{}, 0, std::string(kHashDigits, '0')};
  attempt(mesh_.replicate().rank() == 0, [&] { mine = write_shard(temporary, state); });
  manifest.files = gather_files(mesh_.shard(), mine);
  attempt(world.rank() == 0, [&] {
    manifest.write(temporary);
    fsync_folder(temporary);
    make_way(final_folder);  // of a run that goes on from an older step
    fs::rename(temporary, final_folder);
    fsync_folder(folder_);
  });
}

void Checkpointer::clean_up() const {
  try {
    const auto steps = complete_steps(folder_);
    const auto kept = keep_ == 0 ? steps.size() : std::min(steps.size(), static_cast<size_t>(keep_));
    for (auto step : std::span(steps).first(steps.size() - kept)) remove_checkpoint(step_folder(step));
  } catch (const std::exception& error) {
    log::warn("old checkpoints in {} could not be looked for: {}", folder_, error.what());
  }
  remove_leftovers(folder_);
}

void Checkpointer::remove_interrupted() const {
  std::error_code unknown;  // remove_leftovers() says so
  if (mesh_.world().rank() == 0 && fs::exists(folder_, unknown)) remove_leftovers(folder_);
}

std::string Checkpointer::way_out(int64_t step) const {
  const auto steps = complete_steps(folder_);
  const auto at = std::ranges::lower_bound(steps, step);
  const auto next = at == steps.begin() ? std::string("a new run: there is no older checkpoint")
                                        : fmt::format("step {}, the checkpoint before it", *std::prev(at));
  return fmt::format("Restore it, or move {} away to go on from {}", step_folder(step), next);
}

Manifest Checkpointer::read_manifest(int64_t step) const {
  const auto folder = step_folder(step);
  try {
    auto manifest = Manifest::read(folder);
    if (manifest.step != step)
      throw CheckpointError(
          fmt::format("{}/manifest.json is the manifest of step {}: was the folder renamed?", folder, manifest.step));
    return manifest;
  } catch (const CheckpointError& error) {
    throw CheckpointError(fmt::format("{}. {}", error.what(), way_out(step)));
  }
}

void Checkpointer::verify_files(const Manifest& manifest) const {
  auto& world = mesh_.world();
  for (size_t i = 0; i < manifest.files.size(); ++i) {
    if (static_cast<int>(i % static_cast<size_t>(world.size())) != world.rank()) continue;
    if (const auto problem = problem_of(manifest.files[i], step_folder(manifest.step)); !problem.empty())
      throw CheckpointError(problem);
  }
}

void Checkpointer::read_state(const Manifest& manifest, std::span<const StateTensor> state) const {
  std::vector<std::unique_ptr<safetensors::File>> files;
  TensorPieces pieces;
  for (const auto& file : manifest.files) {
    files.push_back(std::make_unique<safetensors::File>(step_folder(manifest.step) + "/" + file.name));
    for (const auto& [name, entry] : files.back()->entries()) {
      const auto last = name.rfind(':');
      pieces.add(name.substr(0, last), std::stoll(name.substr(last + 1)), entry.dtype, files.back()->bytes(name));
    }
  }
  for (const auto& tensor : state)
    for (const auto& slice : tensor.unit->slices()) {
      auto part = at::empty({slice.end - slice.begin}, tensor.flat.options().device(at::kCPU));
      pieces.read(fmt::format("{}:{}", tensor.kind, slice.name), slice.begin, part);
      at::Tensor(tensor.flat).narrow(0, slice.offset, part.numel()).copy_(part);
    }
}

void Checkpointer::load(const Manifest& manifest, std::span<const StateTensor> state) {
  const auto attempt = [&](const std::function<void()>& work) {
    together(mesh_.world(), fmt::format("load step {}", manifest.step), [&] {
      try {
        work();
      } catch (const std::exception& error) {
        throw CheckpointError(fmt::format("{}. {}", error.what(), way_out(manifest.step)));
      }
    });
  };
  attempt([&] { verify_files(manifest); });
  attempt([&] { read_state(manifest, state); });
  ensure_finite(mesh_.world(), state, step_folder(manifest.step),
                "It was saved by a run that had diverged: move it away to go on from the checkpoint before it");
}

}  // namespace olmoe
