#pragma once
#include <span>
#include <string>

#include "trainer/planner/plan.h"

namespace olmoe {

/// A table for users: the model, the best `rows` layouts, the number of all, and the best layout in full. `layouts`: of
/// plan_layouts.
std::string describe_plan(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts,
                          size_t rows);
/// All layouts as one JSON object.
std::string plan_json(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts);

}  // namespace olmoe
