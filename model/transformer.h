#pragma once
#include <memory>
#include <vector>

#include "model/config.h"
#include "model/stage.h"
#include "parallel/device_mesh.h"

namespace olmoe {

/// How tokens travel to experts on other ranks.
struct DispatchOptions {
  at::Device device = at::kCPU;
  Lane::Beside beside = Lane::Beside::yes;
  int64_t chunks = 1;  ///< pieces of a micro-batch: one is on its way while another is computed
};
/// The stages of the model in order: embedding, num_layers blocks, head. `config` and `mesh` must outlive them.
std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config, DeviceMesh& mesh, DispatchOptions options = {});
/// The parameters of each stage, with all experts. A description: it names no memory (slot is null).
std::vector<std::vector<Param>> list_params(const ModelConfig& config);

}  // namespace olmoe
