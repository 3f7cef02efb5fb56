#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace olmoe {

/// "step_000000007".
std::string step_name(int64_t step);

/// Steps of the complete checkpoints of a folder, oldest first; none where there is no folder. Throws where that cannot
/// be told: a run without a checkpoint starts anew.
std::vector<int64_t> complete_steps(const std::string& folder);

}  // namespace olmoe
