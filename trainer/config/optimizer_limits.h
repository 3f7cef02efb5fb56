#pragma once
#include <string>
#include <vector>

#include "trainer/config/config_choices.h"
#include "trainer/config/config_sections.h"

namespace olmoe {

/// Problems of the optimizer's constants, one sentence each: those that vanish or overflow in the dtype of the update,
/// which is fp32, or float64 in a float64 run. None where a value is out of its range, which values_out_of_range()
/// reports.
std::vector<std::string> validate(const OptimizerConfig& config, ComputeDtype compute_dtype);

}  // namespace olmoe
