#pragma once
#include <span>
#include <string>

#include "trainer/planner/plan.h"

namespace olmoe {

/// A table for people: what the model is, the best `rows` layouts (and how many there are besides), and the best one in
/// full. `layouts` are those of plan_layouts.
std::string describe_plan(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts,
                          size_t rows);
/// The same for programs, all layouts: one JSON object.
std::string plan_json(const Config& config, int gpus, const GpuSpecs& gpu, std::span<const PlannedLayout> layouts);

}  // namespace olmoe
