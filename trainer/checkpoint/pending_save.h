#pragma once
#include <cstdint>
#include <future>
#include <span>
#include <string>

#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Where a rank writes its part of a checkpoint.
struct SaveTarget {
  std::string checkpoints;  ///< the folder of all checkpoints of the run
  std::string temporary;    ///< an existing folder in it, renamed by the commit
  std::string shard;        ///< name of this rank's shard file in `temporary`; empty: the rank writes none
  bool saves_buffers;       ///< whether that file has the state that is equal on all ranks
  int64_t needed_bytes;     ///< by all ranks together; for the error of a full disk
};

/// One rank's part of a save between begin and commit. The trained state may change once the constructor returns.
/// Destroyed without a commit it leaves the temporary folder, which the next start of the run removes. Makes no
/// collective calls.
///
/// The constructor writes and fsyncs the shard file on the caller's thread. No other class depends on that: a thread of
/// this class could write a snapshot in host memory instead.
class PendingSave {
 public:
  /// Writes the rank's slices of `state`: flat fp32 or float64 tensors, on a CPU or a GPU. wait() throws what the write
  /// throws.
  PendingSave(Manifest manifest, SaveTarget target, std::span<const StateTensor> state);
  PendingSave(const PendingSave&) = delete;
  PendingSave& operator=(const PendingSave&) = delete;

  const Manifest& manifest() const { return manifest_; }
  const SaveTarget& target() const { return target_; }
  /// True once the shard file is written, or could not be. Does not block.
  bool done() const;
  /// Blocks until done. Returns the shard file of this rank, without a name where it writes none. Throws
  /// CheckpointError with the path and advice where the write failed.
  const Manifest::ShardFile& wait() const { return shard_.get(); }

 private:
  Manifest manifest_;
  SaveTarget target_;
  std::shared_future<Manifest::ShardFile> shard_;
};

}  // namespace olmoe
