#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/files/file_lock.h"

/// The folder of a run's checkpoints. Users may keep other files in it: links, renamed steps, notes, results. Only
/// files that a save wrote are ever removed, and nothing is removed through a link.
namespace olmoe {

/// "step_000000007".
std::string step_name(int64_t step);
/// ".tmp_step_000000007", the folder that a save writes to before it is renamed.
std::string temporary_name(int64_t step);
/// "shard_00000.safetensors".
std::string shard_name(int rank);

/// Steps of the complete checkpoints of a folder, oldest first; none where the folder does not exist. Throws
/// std::filesystem::filesystem_error where it cannot be read: as if it were empty, a new run would start.
std::vector<int64_t> complete_steps(const std::string& folder);

/// Why a checkpoint was renamed: it is damaged, or the run went back to one before it.
enum class SetAside { damaged, abandoned };
/// Renames a checkpoint to `step_folder`.damaged-1 (or .abandoned-1, or -2, ...), which nothing here reads or removes.
/// Returns the name. Throws std::filesystem::filesystem_error.
std::string set_aside(const std::string& step_folder, SetAside why);
/// Whether set_aside() left damaged checkpoints in a folder. Does not throw.
bool has_damaged(const std::string& folder);

/// Removes a checkpoint, its manifest first, so that a partly removed one is incomplete. Files that no save wrote stay,
/// and so does a link. Files that cannot be removed are logged as warnings. Throws std::filesystem::filesystem_error
/// where the folder cannot be read.
void remove_checkpoint(const std::string& step_folder);
/// Keeps remove_unread() of any process and host from removing a checkpoint, while the result lives. The lock is a
/// shared flock(2) of manifest.json, which other programs can take, too. None, with a warning, where the file system
/// has no locks. Throws CheckpointError where the checkpoint is being removed or is gone.
std::optional<FileLock> lock_against_removal(const std::string& step_folder);
/// remove_checkpoint(), unless another program has locked the checkpoint against it. Returns whether it was tried.
bool remove_unread(const std::string& step_folder);
/// Removes what interrupted saves and removals left in a folder. Never throws: failures are logged as warnings.
void remove_leftovers(const std::string& folder);
/// The same of one temporary folder, if it is there.
void remove_leftover(const std::string& temporary_folder);
/// Frees a step's name for a new checkpoint: removes a checkpoint of that name, and renames anything else with a
/// warning. Throws std::filesystem::filesystem_error.
void make_way(const std::string& step_folder);

}  // namespace olmoe
