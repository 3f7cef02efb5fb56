#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

/// What lies in the checkpoints folder of a run. People put things there too: links, renamed steps, notes, results of
/// evaluations. Only files that a save wrote are ever removed, and nothing is removed through a link.
namespace olmoe {

/// "step_000000007".
std::string step_name(int64_t step);
/// ".tmp_step_000000007", where a save works.
std::string temporary_name(int64_t step);
/// "shard_00000.safetensors".
std::string shard_name(int rank);

/// Steps of the complete checkpoints of a folder, oldest first; none where there is no folder. Throws where that cannot
/// be told: a run without a checkpoint starts anew.
std::vector<int64_t> complete_steps(const std::string& folder);

/// Removes a checkpoint, its manifest first: what is half removed reads as incomplete. Files that no save wrote stay,
/// and so does a link; what cannot be removed is told in the log.
void remove_checkpoint(const std::string& step_folder);
/// Removes what interrupted saves and removals left in a folder. Never throws.
void remove_leftovers(const std::string& folder);
/// Makes the name free for a checkpoint: removes one, and renames whatever else there is, with a warning.
void make_way(const std::string& step_folder);

}  // namespace olmoe
