#pragma once
#include <memory>
#include <vector>

#include "kernels/experts.h"
#include "model/config.h"
#include "model/stage.h"

namespace olmoe {

/// The stages of the model in order: embedding, num_layers blocks, head. `config` must outlive them.
std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config,
                                                kernels::ExpertKernels kernels = kernels::ExpertKernels::unfused);

}  // namespace olmoe
