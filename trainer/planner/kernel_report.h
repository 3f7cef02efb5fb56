#pragma once
#include <string>

#include "trainer/config/config.h"
#include "trainer/device/gpu_specs.h"

namespace olmoe {

/// Predictions for single kernels as one JSON object: one layer's experts with one micro-batch on one GPU, in every
/// form of kernels, and the step on `mesh` of `gpu` with each. No GPU has confirmed any of it. Throws ConfigError where
/// predict_step does, and for a GPU without a model of tiles.
std::string kernels_json(const Config& config, MeshShape mesh, const GpuSpecs& gpu);

}  // namespace olmoe
