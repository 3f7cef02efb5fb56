#pragma once
#include <memory>
#include <vector>

#include "kernels/attention.h"
#include "model/config.h"
#include "model/stage.h"
#include "parallel/device_mesh.h"

namespace olmoe {

/// The stages of the model in order: embedding, num_layers blocks, head. `config` and `mesh` must outlive them. All
/// blocks use the one `attention`, cuDNN's plans included. Throws Error if the experts cannot be divided over axis
/// expert.
std::vector<std::unique_ptr<Stage>> make_stages(const ModelConfig& config, DeviceMesh& mesh, MoeOptions options = {},
                                                const kernels::AttentionMethod& attention = {});
/// The stages of a model on one rank, without memory or computing: what plans are made from.
class ModelOutline {
 public:
  explicit ModelOutline(const ModelConfig& config);
  ModelOutline(const ModelOutline&) = delete;
  ModelOutline& operator=(const ModelOutline&) = delete;
  /// Of each stage, with all experts; slots are null.
  std::vector<std::vector<Param>> params() const;
  /// To be asked for their cost.
  const std::vector<std::unique_ptr<Stage>>& stages() const { return stages_; }

 private:
  const ModelConfig config_;  // the stages refer to it
  std::unique_ptr<Communicator> world_;
  std::unique_ptr<DeviceMesh> mesh_;
  std::vector<std::unique_ptr<Stage>> stages_;
};
/// The parameters of each stage, with all experts, as a description: slot is null.
std::vector<std::vector<Param>> list_params(const ModelConfig& config);

}  // namespace olmoe
