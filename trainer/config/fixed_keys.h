#pragma once
#include <string_view>

namespace olmoe {

/// Whether a run that resumes must have its checkpoint's value of a key ("model.d_model"): the trained function, and
/// which data it sees when, are no others then. Keys of the loss, its memory and the start may change.
bool is_fixed_key(std::string_view key);

}  // namespace olmoe
