#pragma once
#include <memory>

#include "data/data_loader.h"
#include "model/transformer.h"
#include "trainer/device/cuda_graph.h"
#include "trainer/job/resolved_run.h"
#include "trainer/stage_runner.h"

/// What the config of a run means for the parts of the trainer.
namespace olmoe {

StageRunner::Options runner_options(const ResolvedRun& run);
MoeOptions moe_options(const ResolvedRun& run);
/// Of this rank of `world`.
DataLoader::Plan loader_plan(const ResolvedRun& run, const Communicator& world);
/// Null for eager steps.
std::unique_ptr<DeviceGraph> device_graph(const ResolvedRun& run);

}  // namespace olmoe
