#pragma once
#include <map>
#include <span>
#include <string>

#include "trainer/analysis/statistic.h"

namespace olmoe {

/// A summary of an analysis for the terminal: means over layers, thresholds and what exceeds them.
std::string describe_analysis(std::span<const NamedArray> arrays, const std::map<std::string, std::string>& metadata);

}  // namespace olmoe
