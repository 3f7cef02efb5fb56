#include "trainer/checkpoint/checkpointer.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/full.h>
#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <numeric>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/hash.h"
#include "core/integers.h"
#include "core/log.h"
#include "core/process/fault_point.h"
#include "core/process/process_limits.h"
#include "parallel/agreement.h"
#include "parallel/collectives/host_tensor.h"
#include "parallel/error_text.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/gathered_files.h"
#include "trainer/checkpoint/kept_weights.h"
#include "trainer/checkpoint/retention.h"
#include "trainer/checkpoint/state_guard.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

/// Runs `work` on every rank. Where one fails, all throw the CheckpointError "cannot `what`: <its problem>", or its
/// error if that is of values that are not finite. Collective over world.
void together(Communicator& world, const std::string& what, const std::function<void()>& work) {
  agree(world, [&] {
    try {
      work();
    } catch (const std::exception& error) {
      if (exit_code_of(error) == ExitCode::non_finite) throw;
      throw CheckpointError(fmt::format("cannot {}: {}", what, error.what()));
    }
  });
}

/// Whether the folder of a step has its manifest, and that can be read.
bool is_valid(const std::string& step_folder, int64_t step) {
  try {
    return Manifest::read(step_folder).step == step;
  } catch (const CheckpointError&) {
    return false;
  }
}

/// Elements of each "kind:name" of a state, all ranks together.
std::map<std::string, int64_t> elements_of(std::span<const StateTensor> state) {
  std::map<std::string, int64_t> out;
  for (const auto& tensor : state) {
    const auto put = [&](const std::string& name, const std::vector<int64_t>& shape) {
      out[tensor.kind + ":" + name] =
          std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<int64_t>());
    };
    if (tensor.on_all_ranks)
      for (const auto& slice : tensor.slices) put(slice.name, slice.global_shape);
    for (const auto& param : tensor.params) put(param.name, param.global_shape);
  }
  return out;
}

/// Throws CheckpointError unless a checkpoint has exactly the tensors of a state; what only losses read may be left.
void check_tensors(const CheckpointReader& checkpoint, const std::map<std::string, int64_t>& expected) {
  std::map<std::string, int64_t> saved;
  for (const auto& tensor : checkpoint.tensors())
    if (const auto name = tensor.kind + ":" + tensor.name; expected.contains(name) || !is_of_losses(tensor.name))
      saved[name] = tensor.numel;
  const auto check = [&](const auto& has, const auto& lacks, std::string_view who, std::string_view other) {
    for (const auto& [name, numel] : has)
      if (const auto found = lacks.find(name); found == lacks.end() || found->second != numel)
        throw CheckpointError(fmt::format(
            "{}: {} has {} with {} elements, {} {}: the checkpoint is of another model", checkpoint.folder(), who, name,
            numel, other, found == lacks.end() ? std::string("does not") : fmt::format("with {}", found->second)));
  };
  check(saved, expected, "the checkpoint", "the model");
  check(expected, saved, "the model", "the checkpoint");
}

}  // namespace

Checkpointer::Checkpointer(std::string folder, DeviceMesh& mesh, Options options)
    : folder_(std::move(folder)), mesh_(mesh), options_(std::move(options)) {}

std::string Checkpointer::step_folder(int64_t step) const { return fmt::format("{}/{}", folder_, step_name(step)); }

std::vector<int64_t> Checkpointer::steps() const {
  auto& world = mesh_.world();
  std::vector<int64_t> found;
  together(world, fmt::format("look for checkpoints in {}", folder_), [&] {
    if (world.rank() != 0) return;
    found = complete_steps(folder_);
    if (found.empty() && has_damaged(folder_))
      throw CheckpointError(
          "all of them were damaged and set aside. Restore one of them, or move the folder away to start a new run");
  });
  auto count = at::full({1}, std::ssize(found), at::kLong);
  world.broadcast(count, 0);
  found.resize(static_cast<size_t>(count.item<int64_t>()));
  auto all = at::from_blob(found.data(), {std::ssize(found)}, at::kLong);
  if (!found.empty()) world.broadcast(all, 0);
  return found;
}

std::optional<int64_t> Checkpointer::latest_step() const {
  const auto all = steps();
  return all.empty() ? std::nullopt : std::optional(all.back());
}

int64_t shard_bytes(std::span<const StateTensor> state) {
  int64_t bytes = 0;
  for (const auto& tensor : state)
    for (const auto& slice : tensor.slices)
      bytes += (slice.end - slice.begin) * static_cast<int64_t>(tensor.flat.element_size());
  return bytes;
}

void check_file_size(std::span<const StateTensor> state) {
  const int64_t bytes = shard_bytes(state);
  if (bytes > file_size_limit())
    throw ConfigError(
        fmt::format("a checkpoint file of this rank takes {} bytes, but this process may write {} a "
                    "file: raise the limit (ulimit -f unlimited), or shard over more ranks",
                    bytes, file_size_limit()));
}

/// Runs `work` of the pending save on every rank. Where one fails, the save is over and all throw.
void Checkpointer::save_together(int64_t step, const std::function<void()>& work) {
  try {
    together(mesh_.world(), fmt::format("save step {}", step), work);
  } catch (const Error& error) {
    if (is_agreed(error)) abandon();  // else the ranks are no longer together
    throw;
  }
}

void Checkpointer::reserve_copy(std::span<const StateTensor> state) {
  if (mesh_.replicate().rank() == 0) snapshot_.emplace(options_.device).reserve(state);  // the others write no shard
}

void Checkpointer::begin_save(Manifest manifest, std::span<const StateTensor> state, Mode mode) {
  const int64_t step = manifest.step;
  ENSURE(!pending_, "the save of step {} is not committed: step {} cannot begin", pending_->manifest().step, step);
  auto& world = mesh_.world();
  fault_point("save.begin", world.rank());
  if (mode == Mode::wait) ensure_finite(world, state, fmt::format("step {}", step), kDivergedAdvice);
  expected_ = elements_of(state);
  SaveTarget target{.checkpoints = folder_,
                    .temporary = fmt::format("{}/{}", folder_, temporary_name(step)),
                    .shard = {},
                    .rank = world.rank(),
                    .saves_buffers = mesh_.shard().rank() == 0,
                    .needed_bytes = shard_bytes(state) * mesh_.shard().size()};
  if (mesh_.replicate().rank() == 0) target.shard = shard_name(mesh_.shard().rank());
  if (mode == Mode::async && !snapshot_) snapshot_.emplace(options_.device);
  pending_ = std::make_unique<PendingSave>(std::move(manifest), std::move(target), state,
                                           mode == Mode::async ? &*snapshot_ : nullptr);
}

void Checkpointer::wait_until_copied() {
  if (pending_) pending_->wait_until_copied();
}

bool Checkpointer::poll() const {
  ENSURE(pending_, "no save was begun");
  return pending_->done();
}

bool Checkpointer::all_ranks(bool mine) const {
  auto flag = at::full({1}, mine ? 1 : 0, at::TensorOptions().dtype(at::kLong).device(options_.device));
  mesh_.world().all_reduce(flag, Reduce::min);
  return fetch(flag, mesh_.world()).item<int64_t>() == 1;
}

bool Checkpointer::advance() {
  ENSURE(pending_, "no save was begun");
  if (!pending_->commit_begun()) {
    if (!all_ranks(pending_->done())) return false;
    begin_commit();
    return false;
  }
  if (!all_ranks(pending_->commit_done())) return false;
  commit();
  return true;
}

/// The agreement of all ranks, whose shards are written or not; then the commit begins on rank 0.
void Checkpointer::begin_commit() {
  auto& world = mesh_.world();
  auto manifest = pending_->manifest();
  Manifest::ShardFile mine;
  save_together(manifest.step, [&] { mine = pending_->wait(); });
  fault_point("save.agreed", world.rank());
  manifest.files = gather_files(mesh_.shard(), mine);
  fault_point("save.gathered", world.rank());
  pending_->begin_commit([this, manifest = std::move(manifest), target = pending_->target(), metrics = metrics_] {
    if (target.rank != 0) return;
    write_checkpoint(manifest, target);
    options_.committed(manifest.step);
    clean_up(manifest.step, metrics);
  });
}

void Checkpointer::commit() {
  ENSURE(pending_, "no save was begun");
  if (!pending_->commit_begun()) begin_commit();
  save_together(pending_->manifest().step, [&] { pending_->wait_for_commit(); });
  pending_.reset();
  fault_point("commit.done", mesh_.world().rank());
}

void Checkpointer::abandon() {
  const auto temporary = pending_->target().temporary;
  pending_.reset();  // waits for its threads
  mesh_.world().barrier();
  if (mesh_.world().rank() == 0) remove_leftover(temporary);  // others may be another run's, which took the folder over
}

/// The part of a commit that rank 0 does alone.
void Checkpointer::write_checkpoint(const Manifest& manifest, const SaveTarget& target) const {
  const auto at = [&](std::string_view point) { fault_point(point, target.rank); };
  const auto writing = [&](const std::function<void()>& work) { write_to_disk(folder_, target.needed_bytes, work); };
  at("commit.begin");
  check_tensors(CheckpointReader(target.temporary, manifest), expected_);  // each element is there exactly once
  at("commit.proven");
  writing([&] {
    fsync_folder(fs::path(folder_).parent_path());
    manifest.write(target.temporary);
    at("commit.manifest");
    fsync_folder(target.temporary);
  });
  at("commit.synced");
  options_.ensure_may_commit();
  writing([&] {
    const auto final_folder = step_folder(manifest.step);
    make_way(final_folder);  // of a run that resumed from an older step
    at("commit.way_made");
    fs::rename(target.temporary, final_folder);
    at("commit.renamed");
    fsync_folder(folder_);
  });
  at("commit.durable");
}

void Checkpointer::save(Manifest manifest, std::span<const StateTensor> state) {
  begin_save(std::move(manifest), state);
  commit();
}

std::string Checkpointer::weights_folder() const { return fs::path(folder_).parent_path() / "weights"; }

/// False, with a warning, where the weights of a checkpoint are to be kept and cannot be: then it stays whole.
bool Checkpointer::make_removable(int64_t step) const {
  const auto every = options_.retention.keep_weights_every_steps;
  if (every == 0 || step % every != 0) return true;
  try {
    keep_weights(step_folder(step), weights_folder(), options_.is_leaving);
    fault_point("retention.weights_kept", mesh_.world().rank());
    return true;
  } catch (const std::exception& error) {
    log::warn("cannot keep the weights of step {} in {}: {}. The checkpoint stays whole", step, weights_folder(),
              error.what());
    return false;
  }
}

/// Of the checkpoints up to `committed`, the one that was just written: later ones are not of this run's past.
void Checkpointer::clean_up(int64_t committed, const std::map<int64_t, double>& metrics) const {
  const int rank = mesh_.world().rank();
  fault_point("retention.begin", rank);
  try {
    std::vector<SavedStep> saved;
    for (const auto step : complete_steps(folder_)) {
      if (step > committed || !is_valid(step_folder(step), step)) continue;  // neither counted nor removed
      const auto metric = metrics.find(step);
      saved.push_back({.step = step,
                       .metric = metric == metrics.end() ? std::nullopt : std::optional(metric->second),
                       .in_use = options_.is_in_use(step)});
    }
    for (const auto step : steps_to_remove(saved, options_.retention)) {
      if (make_removable(step) && !remove_unread(step_folder(step)))
        log::info("{} is being read by another program: it stays until the next save", step_folder(step));
      fault_point("retention.between", rank);
    }
  } catch (const std::exception& error) {
    log::warn("cannot remove old checkpoints in {}: {}", folder_, error.what());
  }
  remove_leftovers(folder_);
  fault_point("retention.end", rank);
}

void Checkpointer::remove_interrupted() const {
  ENSURE(!pending_, "the save of step {} is not committed", pending_->manifest().step);
  std::error_code unknown;  // remove_leftovers() reports it
  for (const auto& folder : {folder_, weights_folder()})
    if (mesh_.world().rank() == 0 && fs::exists(folder, unknown)) remove_leftovers(folder);
}

std::string Checkpointer::advice_for(int64_t step) const {
  const auto steps = complete_steps(folder_);
  const auto at = std::ranges::lower_bound(steps, step);
  const auto next = at == steps.begin() ? std::string("start a new run: there is no older checkpoint")
                                        : fmt::format("resume from step {}, the checkpoint before it", *std::prev(at));
  return fmt::format("Restore it, or move {} away to {}", step_folder(step), next);
}

/// Runs `work`, which reads step `step`, on every rank. Where it finds damage on one of them, all throw
/// DamagedCheckpoint. Collective over world.
void Checkpointer::read_together(int64_t step, const std::function<void()>& work) const {
  std::string damage;
  agree(mesh_.world(), [&] {
    try {
      work();
    } catch (const DamagedCheckpoint& error) {
      damage = error.what();
    } catch (const std::exception& error) {
      throw CheckpointError(fmt::format("cannot load step {}: {}. {}", step, error.what(), advice_for(step)));
    }
  });
  const auto all = gather_text(mesh_.world(), damage);
  for (size_t rank = 0; rank < all.size(); ++rank)
    if (!all[rank].empty())
      throw DamagedCheckpoint(fmt::format("rank {}: cannot load step {}: {}", rank, step, all[rank]));
}

Manifest Checkpointer::read_manifest(int64_t step) const {
  Manifest manifest;
  read_together(step, [&] {
    manifest = Manifest::read(step_folder(step));
    if (manifest.step != step)
      throw CheckpointError(fmt::format("{}/manifest.json is the manifest of step {}: was the folder renamed?",
                                        step_folder(step), manifest.step));
  });
  return manifest;
}

void Checkpointer::set_aside(int64_t step, SetAside why, const std::string& reason) const {
  together(mesh_.world(), fmt::format("set step {} aside", step), [&] {
    if (mesh_.world().rank() != 0) return;
    const auto name = olmoe::set_aside(step_folder(step), why);
    fsync_folder(folder_);
    log::warn("{}. It is {} and kept as {}", reason, why == SetAside::damaged ? "damaged" : "abandoned", name);
  });
}

void Checkpointer::set_weights_aside(int64_t step) const {
  together(mesh_.world(), fmt::format("set weights after step {} aside", step), [&] {
    if (mesh_.world().rank() != 0) return;
    for (const auto kept : complete_steps(weights_folder()))
      if (kept > step) olmoe::set_aside(fmt::format("{}/{}", weights_folder(), step_name(kept)), SetAside::abandoned);
  });
}

void Checkpointer::forget_cached(int64_t step) const {
  try {
    for (const auto& entry : fs::directory_iterator(step_folder(step)))
      if (entry.is_regular_file()) FileDescriptor(entry.path(), O_RDONLY).forget_cached();
  } catch (const std::exception&) {
    return;  // the next read reports what cannot be read
  }
}

void Checkpointer::load(const Manifest& manifest, std::span<const StateTensor> state) {
  auto& world = mesh_.world();
  const auto step = manifest.step;
  std::optional<CheckpointReader> checkpoint;
  read_together(step, [&] { checkpoint.emplace(step_folder(step), manifest); });
  fault_point("load.manifest", world.rank());
  together(world, fmt::format("load step {}", step), [&] { check_tensors(*checkpoint, elements_of(state)); });
  read_together(step, [&] {
    for (const auto& tensor : state) {
      for (const auto& slice : tensor.slices) {
        constexpr int64_t kPiece = 16 << 20;  // elements
        for (int64_t first = slice.begin; first < slice.end; first += kPiece) {
          const auto size = std::min(kPiece, slice.end - first);
          const auto target = tensor.flat.detach().narrow(0, slice.offset + first - slice.begin, size);
          const auto part = target.is_cpu() ? target : at::empty({size}, target.options().device(at::kCPU));
          checkpoint->read(tensor.kind, slice.name, first, part);
          target.copy_(part);
        }
      }
      fault_point("load.between", world.rank());
    }
  });
  fault_point("load.read", world.rank());
  ensure_finite(world, state, step_folder(step),
                "It was saved by a run that had diverged: move it away to resume from the checkpoint before it");
}

}  // namespace olmoe
