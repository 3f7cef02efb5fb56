#pragma once
#include <string>

#include "trainer/conversion/saved_model.h"

namespace olmoe {

/// What is in a saved model, made by what, and how large, as text; `list_tensors`: every tensor too.
std::string describe(const SavedModel& model, bool list_tensors);

}  // namespace olmoe
