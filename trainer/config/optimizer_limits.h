#pragma once
#include <string>
#include <vector>

#include "trainer/config/config_choices.h"
#include "trainer/config/config_sections.h"

namespace olmoe {

/// Problems of AdamW's constants, one sentence each: values outside their range, and those that vanish or overflow in
/// the dtype that computes with them, which is fp32, or float64 in a float64 run.
std::vector<std::string> validate(const OptimizerConfig& config, ComputeDtype compute_dtype);

}  // namespace olmoe
