#pragma once
#include <cstdint>
#include <functional>
#include <future>
#include <span>
#include <string>

#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/state_snapshot.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Where a rank writes its part of a checkpoint.
struct SaveTarget {
  std::string checkpoints;  ///< the folder of all checkpoints of the run
  std::string temporary;    ///< a folder in it, renamed by the commit
  std::string shard;        ///< name of this rank's shard file in `temporary`; empty: the rank writes none
  int rank;                 ///< in world, for fault_point()
  bool saves_buffers;       ///< whether that file has the state that is equal on all ranks
  int64_t needed_bytes;     ///< by all ranks together; for the error of a full disk
};

/// One rank's part of a save: the shard file, then on one rank the commit. Makes no collective calls.
///
/// With a snapshot both run on threads of this object, and the trained state may change once wait_until_copied()
/// returns. Without one both run on the caller's thread. The destructor waits for them. Destroyed without a commit it
/// leaves the temporary folder, which the next start of the run removes.
class PendingSave {
 public:
  /// Begins to write the rank's slices of `state`: flat fp32 or float64 tensors, on a CPU or a GPU. wait() throws what
  /// the write throws. `snapshot`, if there is one, must outlive this object.
  PendingSave(Manifest manifest, SaveTarget target, std::span<const StateTensor> state, StateSnapshot* snapshot);
  PendingSave(const PendingSave&) = delete;
  PendingSave& operator=(const PendingSave&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const SaveTarget& target() const { return target_; }
  /// True once the shard file is written, or could not be. Does not block.
  bool done() const;
  /// Blocks until done. Returns the shard file of this rank, without a name where it writes none. Throws
  /// CheckpointError with the path and advice where the write failed, and Error with ExitCode::non_finite where a value
  /// of the snapshot is not finite.
  const Manifest::ShardFile& wait() const { return shard_.get(); }
  /// Blocks until the trained state may change.
  void wait_until_copied();

  /// Begins `work`, which commits the save or does nothing.
  void begin_commit(std::function<void()> work);
  bool commit_begun() const { return commit_.valid(); }
  /// As done() and wait(), for `work`.
  bool commit_done() const;
  void wait_for_commit() { commit_.get(); }

 private:
  Manifest manifest_;
  SaveTarget target_;
  StateSnapshot* snapshot_;
  std::shared_future<Manifest::ShardFile> shard_;
  std::future<void> commit_;
};

}  // namespace olmoe
