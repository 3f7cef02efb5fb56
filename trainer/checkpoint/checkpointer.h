#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "parallel/device_mesh.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/pending_save.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Bytes of this rank's slices of `state` in its shard file, without the file's header.
int64_t shard_bytes(std::span<const StateTensor> state);

/// Writes and reads `folder`/step_NNNNNNNNN/: one safetensors file of flat slices for each rank of `shard`, and the
/// manifest, which is written last. A checkpoint is written under a temporary name, fsynced and renamed, so that it
/// exists only when it is complete. It can be read with any number of ranks and any layout.
///
/// A save has two halves, begin_save() and commit(), with poll() between them; save() is both. A half that fails throws
/// the same error on every rank and ends the save: earlier checkpoints stay, and its files are removed. `state` has the
/// same kinds and units on all ranks: flat tensors, fp32 or float64, on a CPU or a GPU.
class Checkpointer {
 public:
  /// `keep`: the number of newest checkpoints that stay after a save; 0: all. `mesh` must outlive this object.
  Checkpointer(std::string folder, DeviceMesh& mesh, int64_t keep);
  /// Starts a save of step `manifest.step`; commit() fills in its `files`. `state` may change once this returns. Throws
  /// an Error with ExitCode::non_finite where a value is not finite, before anything is written; CheckpointError where
  /// the temporary folder cannot be made; Error where the previous save is not committed. Collective over world.
  void begin_save(Manifest manifest, std::span<const StateTensor> state);
  /// True once this rank has written its shard, or failed to. Does not block, and is not collective. Throws Error where
  /// no save was begun.
  bool poll() const;
  /// Waits for the shards of all ranks, writes the manifest and renames the checkpoint to its name. Then removes
  /// checkpoints older than the newest `keep`, and leftovers of interrupted saves. Throws CheckpointError where a rank
  /// could not write, and Error where no save was begun. Collective over world.
  void commit();
  /// begin_save() and commit(). Collective over world.
  void save(Manifest manifest, std::span<const StateTensor> state);
  /// The newest complete step of the folder on rank 0, or none. Throws CheckpointError where the folder exists
  /// and cannot be read. Collective over world.
  std::optional<int64_t> latest_step() const;
  std::string step_folder(int64_t step) const;
  /// The manifest of a complete step. Throws CheckpointError, with what to do, where it is damaged or of another step.
  Manifest read_manifest(int64_t step) const;
  /// Removes, on rank 0, what interrupted saves left. No other run may save in this folder meanwhile. Throws Error
  /// while a save of this object is pending.
  void remove_interrupted() const;
  /// Fills `state` from a checkpoint, after the size and hash of every file were verified. Throws CheckpointError
  /// naming the file, or a buffer that only one of checkpoint and `state` has, or an Error with ExitCode::non_finite
  /// where a value is not finite. Collective over world.
  void load(const Manifest& manifest, std::span<const StateTensor> state);

 private:
  void save_together(int64_t step, const std::function<void()>& work) const;
  std::string advice_for(int64_t step) const;
  void verify_files(const Manifest& manifest) const;
  void check_buffers(const Manifest& manifest, std::span<const StateTensor> state) const;
  void read_state(const Manifest& manifest, std::span<const StateTensor> state) const;
  void clean_up() const;

  std::string folder_;
  DeviceMesh& mesh_;
  int64_t keep_;
  std::unique_ptr<PendingSave> pending_;  // between begin_save() and commit()
};

}  // namespace olmoe
