#include "trainer/checkpoint/checkpointer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <ranges>

#include "core/error.h"
#include "core/files/files.h"
#include "core/files/safetensors.h"
#include "core/hash.h"
#include "core/log.h"
#include "parallel/agreement.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/state_guard.h"
#include "trainer/checkpoint/tensor_pieces.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
constexpr size_t kHashDigits = 32;
constexpr const char* kDiverged =
    "Nothing was saved, and earlier checkpoints stay. The run diverged: start it again with a lower optimizer.lr, and "
    "it resumes from the newest of them";

/// Runs `work` on every rank. Where one fails, all throw the CheckpointError "cannot `what`: <its problem>".
/// Collective over world.
void together(Communicator& world, const std::string& what, const std::function<void()>& work) {
  agree(world, [&] {
    try {
      work();
    } catch (const std::exception& error) {
      throw CheckpointError(fmt::format("cannot {}: {}", what, error.what()));
    }
  });
}

/// The shard files of all ranks of `group`, on every rank, in rank order. Collective over group.
std::vector<Manifest::ShardFile> gather_files(Communicator& group, const Manifest::ShardFile& mine) {
  struct Record {
    int64_t size_bytes;
    std::array<char, kHashDigits> xxh3_128;
  };
  Record record{mine.size_bytes, {}};
  std::ranges::copy(mine.xxh3_128 | std::views::take(kHashDigits), record.xxh3_128.begin());
  std::vector<Manifest::ShardFile> files;
  for (const auto& [size_bytes, hash] : gather_records<Record>(group, {&record, 1}))
    files.push_back({shard_name(static_cast<int>(files.size())), size_bytes, {hash.begin(), hash.end()}});
  return files;
}

/// The problem with a file of a checkpoint in `folder`; empty: none.
std::string problem_of(const Manifest::ShardFile& file, const std::string& folder) {
  const auto path = folder + "/" + file.name;
  std::error_code error;
  const auto size = fs::file_size(path, error);
  if (error) return fmt::format("{}: {}", path, error.message());
  if (static_cast<int64_t>(size) != file.size_bytes)
    return fmt::format("{}: {} bytes, but the manifest says {}", path, size, file.size_bytes);
  if (hash_file(path) != file.xxh3_128) return fmt::format("{}: damaged, its hash is not that in the manifest", path);
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
    for (const auto& slice : tensor.slices)
      bytes += (slice.end - slice.begin) * static_cast<int64_t>(tensor.flat.element_size());
  return bytes;
}

void Checkpointer::save_together(int64_t step, const std::function<void()>& work) const {
  try {
    together(mesh_.world(), fmt::format("save step {}", step), work);
  } catch (const CheckpointError&) {  // thrown on all ranks, none of which writes any more
    if (mesh_.world().rank() == 0) remove_leftovers(folder_);
    throw;
  }
}

void Checkpointer::begin_save(Manifest manifest, std::span<const StateTensor> state) {
  const int64_t step = manifest.step;
  ENSURE(!pending_, "the save of step {} is not committed: step {} cannot begin", pending_->manifest().step, step);
  auto& world = mesh_.world();
  ensure_finite(world, state, fmt::format("step {}", step), kDiverged);
  SaveTarget target{.checkpoints = folder_,
                    .temporary = fmt::format("{}/{}", folder_, temporary_name(step)),
                    .shard = {},
                    .saves_buffers = mesh_.shard().rank() == 0,
                    .needed_bytes = shard_bytes(state) * mesh_.shard().size()};
  save_together(step, [&] {
    if (world.rank() != 0) return;
    write_to_disk(folder_, target.needed_bytes, [&] {
      fs::create_directories(folder_);
      fsync_folder(fs::path(folder_).parent_path());
      fs::remove_all(target.temporary);
      fs::create_directory(target.temporary);
    });
  });
  if (mesh_.replicate().rank() == 0) target.shard = shard_name(mesh_.shard().rank());
  pending_ = std::make_unique<PendingSave>(std::move(manifest), std::move(target), state);
}

bool Checkpointer::poll() const {
  ENSURE(pending_, "no save was begun");
  return pending_->done();
}

void Checkpointer::commit() {
  ENSURE(pending_, "no save was begun");
  const auto save = std::move(pending_);  // the save ends here, also by an error below
  auto& world = mesh_.world();
  auto manifest = save->manifest();
  Manifest::ShardFile mine;
  save_together(manifest.step, [&] { mine = save->wait(); });
  manifest.files = gather_files(mesh_.shard(), mine);
  save_together(manifest.step, [&] {
    if (world.rank() != 0) return;
    write_to_disk(folder_, save->target().needed_bytes, [&] {
      const auto& temporary = save->target().temporary;
      const auto final_folder = step_folder(manifest.step);
      manifest.write(temporary);
      fsync_folder(temporary);
      make_way(final_folder);  // of a run that resumed from an older step
      fs::rename(temporary, final_folder);
      fsync_folder(folder_);
    });
  });
  if (world.rank() == 0) clean_up();
}

void Checkpointer::save(Manifest manifest, std::span<const StateTensor> state) {
  begin_save(std::move(manifest), state);
  commit();
}

void Checkpointer::clean_up() const {
  try {
    const auto steps = complete_steps(folder_);
    const auto kept = keep_ == 0 ? steps.size() : std::min(steps.size(), static_cast<size_t>(keep_));
    for (auto step : std::span(steps).first(steps.size() - kept)) remove_checkpoint(step_folder(step));
  } catch (const std::exception& error) {
    log::warn("cannot remove old checkpoints in {}: {}", folder_, error.what());
  }
  remove_leftovers(folder_);
}

void Checkpointer::remove_interrupted() const {
  ENSURE(!pending_, "the save of step {} is not committed", pending_->manifest().step);
  std::error_code unknown;  // remove_leftovers() reports it
  if (mesh_.world().rank() == 0 && fs::exists(folder_, unknown)) remove_leftovers(folder_);
}

std::string Checkpointer::advice_for(int64_t step) const {
  const auto steps = complete_steps(folder_);
  const auto at = std::ranges::lower_bound(steps, step);
  const auto next = at == steps.begin() ? std::string("start a new run: there is no older checkpoint")
                                        : fmt::format("resume from step {}, the checkpoint before it", *std::prev(at));
  return fmt::format("Restore it, or move {} away to {}", step_folder(step), next);
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
    throw CheckpointError(fmt::format("{}. {}", error.what(), advice_for(step)));
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

void Checkpointer::check_buffers(const Manifest& manifest, std::span<const StateTensor> state) const {
  std::map<std::string, int64_t> saved, present;  // bytes by name
  for (const auto& file : manifest.files) {
    const safetensors::File shard(step_folder(manifest.step) + "/" + file.name);
    for (const auto& [name, entry] : shard.entries())
      if (name.starts_with("buffer:")) saved[name] = std::ssize(shard.bytes(name));
  }
  for (const auto& tensor : state)
    if (tensor.on_all_ranks)
      for (const auto& slice : tensor.slices)
        present[fmt::format("{}:{}:0", tensor.kind, slice.name)] = static_cast<int64_t>(tensor.flat.nbytes());
  const auto check = [&](const auto& has, const auto& lacks, std::string_view who, std::string_view other) {
    for (const auto& [name, bytes] : has)
      if (const auto found = lacks.find(name); found == lacks.end() || found->second != bytes)
        throw CheckpointError(
            fmt::format("{}: {} has {} with {} bytes, {} {}: the checkpoint is of another model",
                        step_folder(manifest.step), who, name, bytes, other,
                        found == lacks.end() ? std::string("does not") : fmt::format("with {} bytes", found->second)));
  };
  check(saved, present, "the checkpoint", "the model");
  check(present, saved, "the model", "the checkpoint");
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
    for (const auto& slice : tensor.slices) {
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
        throw CheckpointError(fmt::format("{}. {}", error.what(), advice_for(manifest.step)));
      }
    });
  };
  attempt([&] { verify_files(manifest); });
  together(mesh_.world(), fmt::format("load step {}", manifest.step), [&] { check_buffers(manifest, state); });
  attempt([&] { read_state(manifest, state); });
  ensure_finite(mesh_.world(), state, step_folder(manifest.step),
                "It was saved by a run that had diverged: move it away to resume from the checkpoint before it");
}

}  // namespace olmoe
