#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/device_mesh.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/pending_save.h"
#include "trainer/checkpoint/state_snapshot.h"
#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/checkpoint_config.h"

namespace olmoe {

/// Bytes of this rank's slices of `state` in its shard file, without the file's header.
int64_t shard_bytes(std::span<const StateTensor> state);
/// Throws ConfigError where that is more than a file of this process may have.
void check_file_size(std::span<const StateTensor> state);

/// Writes and reads `folder`/step_NNNNNNNNN/: one safetensors file of flat slices for each rank of `shard`, and the
/// manifest, which is written last. A checkpoint is written under a temporary name, fsynced and renamed, so that it
/// exists only when it is complete. It can be read with any number of ranks and any layout.
///
/// A save has three parts: begin_save(), the shards of all ranks, the commit. In an asynchronous save the second and
/// the third run on threads beside the caller's, which moves the save on by calling advance() now and then; else they
/// run in begin_save() and commit(). The threads make no collective calls. A part that fails throws the same error on
/// every rank and ends the save: earlier checkpoints stay, and its files are removed. `state` has the same kinds and
/// units on all ranks: flat tensors, fp32 or float64, on one device.
class Checkpointer {
 public:
  /// Retention of the newest `keep` checkpoints; 0: all.
  static CheckpointConfig keeping(int64_t keep) {
    CheckpointConfig config;
    config.keep = keep;
    return config;
  }
  struct Options {
    CheckpointConfig retention = keeping(0);  ///< which checkpoints stay after a save
    c10::Device device = c10::kCPU;
    /// Called on rank 0 right before a checkpoint gets its name; an exception ends the save.
    std::function<void()> ensure_may_commit = [] {};
    /// Called on rank 0 right after a checkpoint got its name; must not throw.
    std::function<void(int64_t step)> committed = [](int64_t) {};
    /// Asked on rank 0: whether a step must stay, whatever `retention` says.
    std::function<bool(int64_t step)> is_in_use = [](int64_t) { return false; };
    /// Asked on rank 0: whether the run was asked to leave. Then weights that are being copied are given up.
    std::function<bool()> is_leaving = [] { return false; };
  };

  /// `mesh` must outlive this object.
  Checkpointer(std::string folder, DeviceMesh& mesh, Options options);
  enum class Mode { wait, async };
  /// Allocates this rank's host memory for the copies of `state` by asynchronous saves, which the first of them does
  /// otherwise. Throws c10::Error where there is not enough. Not collective.
  void reserve_copy(std::span<const StateTensor> state);
  /// Starts a save of step `manifest.step`; the commit fills in its `files`. `state` must not change until
  /// wait_until_copied(). Throws an Error with
  /// ExitCode::non_finite where a value is not finite, before anything is written (Mode::async: by advance() or
  /// commit() instead); Error where the previous save is not over. Collective over world.
  void begin_save(Manifest manifest, std::span<const StateTensor> state, Mode mode = Mode::wait);
  /// The checkpoint.keep_best_metric of an evaluated step, for the retention of saves that begin after that.
  void note_metric(int64_t step, double value) { metrics_[step] = value; }
  /// Returns once the state of a begun save may change. Not collective.
  void wait_until_copied();
  bool saving() const { return pending_ != nullptr; }
  /// True once this rank has written its shard, or failed to. Does not block, and is not collective. Throws Error where
  /// no save was begun.
  bool poll() const;
  /// Moves a begun save on as far as all ranks are, without waiting for a disk: true when it was committed. Throws as
  /// commit(). Collective over world.
  bool advance();
  /// Waits for the shards of all ranks, writes the manifest and renames the checkpoint to its name. Then removes
  /// checkpoints that Options::retention does not keep, and leftovers of interrupted saves. Throws CheckpointError
  /// where a rank could not write, and Error where no save was begun. Collective over world.
  void commit();
  /// Ends a begun save without a checkpoint, once its threads are done. Collective over world.
  void abandon();
  /// Removes, on rank 0, what a commit of step `newest` would: steps may have stayed because they were in use.
  void remove_old(int64_t newest) const {
    if (mesh_.world().rank() == 0) clean_up(newest, metrics_);
  }
  /// begin_save() and commit(). Collective over world.
  void save(Manifest manifest, std::span<const StateTensor> state);
  /// The complete steps of the folder on rank 0, oldest first. Throws CheckpointError where the folder exists and
  /// cannot be read, or has no checkpoints but damaged ones that set_aside() renamed. Collective over world.
  std::vector<int64_t> steps() const;
  /// The last of them, or none.
  std::optional<int64_t> latest_step() const;
  std::string step_folder(int64_t step) const;
  /// Beside `folder`: checkpoints of weights alone (checkpoint.keep_weights_every_steps).
  std::string weights_folder() const;
  /// Whether this rank logs what all ranks know.
  bool speaks() const { return mesh_.world().rank() == 0; }
  /// What a user can do about a complete step that cannot be read.
  std::string advice_for(int64_t step) const;
  /// The manifest of a complete step. Throws DamagedCheckpoint where it is damaged, and CheckpointError, with what to
  /// do, where it cannot be read or is of another step. Collective over world.
  Manifest read_manifest(int64_t step) const;
  /// Renames a checkpoint that is damaged or abandoned, as set_aside() in checkpoint_folder.h, and logs `reason` with
  /// the new name. Throws CheckpointError. Collective over world.
  void set_aside(int64_t step, SetAside why, const std::string& reason) const;
  /// The same, on rank 0, of weights that stayed of steps after `step`. Collective over world.
  void set_weights_aside(int64_t step) const;
  /// Drops the files of a step from this host's page cache, so that the next read asks the disk. Does not throw.
  void forget_cached(int64_t step) const;
  /// Removes, on rank 0, what interrupted saves left. No other run may save in this folder meanwhile. Throws Error
  /// while a save of this object is pending.
  void remove_interrupted() const;
  /// Fills `state` from a checkpoint. Each rank reads each block that it uses once, and compares the hash of the bytes
  /// that it read. Throws DamagedCheckpoint naming the file; CheckpointError where a file cannot be read, or naming a
  /// tensor that only one of checkpoint and `state` has; an Error with ExitCode::non_finite where a value is not
  /// finite. Where any rank finds one of these all ranks throw, and `state` is to be loaded again or thrown away.
  /// Collective over world.
  void load(const Manifest& manifest, std::span<const StateTensor> state);

 private:
  void save_together(int64_t step, const std::function<void()>& work);
  bool all_ranks(bool mine) const;
  void begin_commit();
  void write_checkpoint(const Manifest& manifest, const SaveTarget& target) const;
  void read_together(int64_t step, const std::function<void()>& work) const;
  bool make_removable(int64_t step) const;
  void clean_up(int64_t committed, const std::map<int64_t, double>& metrics) const;

  std::string folder_;
  DeviceMesh& mesh_;
  Options options_;
  std::map<std::string, int64_t> expected_;  // elements of each "kind:name" of the state that is being saved
  std::map<int64_t, double> metrics_;        // by step
  std::optional<StateSnapshot> snapshot_;
  std::unique_ptr<PendingSave> pending_;  // between begin_save() and the end of the save
};

}  // namespace olmoe
