#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "parallel/device_mesh.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/state_tensor.h"

namespace olmoe {

/// Bytes of this rank's slices of `state`, as its shard file holds them: headers come on top.
int64_t shard_bytes(std::span<const StateTensor> state);

/// Writes and reads `folder`/step_NNNNNNNNN/: one safetensors file of flat slices for each rank of `shard`, and a
/// manifest written last. A checkpoint is made under a temporary name, fsynced and renamed: it exists when it is
/// complete. Any number of ranks reads what any number wrote.
class Checkpointer {
 public:
  Checkpointer(std::string folder, DeviceMesh& mesh, int64_t keep);
  /// Saves; then removes what is older than the newest `keep` and what interrupted saves left. Throws one error on
  /// every rank, and leaves checkpoints saved before and nothing else: a CheckpointError when one failed to write, an
  /// Error with ExitCode::non_finite when state is not finite. Collective over world.
  void save(Manifest manifest, std::span<const StateTensor> state);
  /// The newest complete step of the folder as rank 0 sees it, or none. Throws CheckpointError where there is a folder
  /// that cannot be read. Collective over world.
  std::optional<int64_t> latest_step() const;
  std::string step_folder(int64_t step) const;
  /// The manifest of a step that is there. Throws CheckpointError, with what to do, where it is damaged or another's.
  Manifest read_manifest(int64_t step) const;
  /// Rank 0 removes what interrupted saves left. Not while another run saves in this folder.
  void remove_interrupted() const;
  /// Fills `state` from a checkpoint, after every file was found to have its size and hash. Throws CheckpointError
  /// naming the file, or an Error with ExitCode::non_finite for a value that is not. Collective over world.
  void load(const Manifest& manifest, std::span<const StateTensor> state);

 private:
  Manifest::ShardFile write_shard(const std::string& folder, std::span<const StateTensor> state) const;
  void write(Manifest& manifest, std::span<const StateTensor> state, const std::string& temporary) const;
  std::string way_out(int64_t step) const;
  void verify_files(const Manifest& manifest) const;
  void read_state(const Manifest& manifest, std::span<const StateTensor> state) const;
  void clean_up() const;

  std::string folder_;
  DeviceMesh& mesh_;
  int64_t keep_;
};

}  // namespace olmoe
