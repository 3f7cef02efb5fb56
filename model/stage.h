// Shapes: B sequences of S tokens, N = B*S tokens (rows), D model width, K experts a token, E experts.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "data/batch.h"
#include "kernels/experts.h"
#include "model/routing.h"
#include "parallel/param_role.h"

namespace olmoe {

/// Which ranks share a parameter: all of `shard`, or those of `expert_shard` that hold the same experts.
enum class Axis { shard, expert_shard };

/// A parameter as a stage names it. The stage computes with *slot, whoever fills it.
struct Param {
  std::string name;                   ///< full name, unique in the model; the key of its initial value
  std::vector<int64_t> shape;         ///< of *slot on this rank
  std::vector<int64_t> global_shape;  ///< with all experts
  int64_t first;                      ///< where `shape` begins in the flattened global parameter
  Axis axis;
  at::Tensor* slot;
  bool* to_store = nullptr;  ///< where its backward can store the gradient: set if it shall (UnitParam::to_store)
  ParamRole role = ParamRole::matrix;
};
/// A parameter that all ranks of `shard` share, whole.
Param shared_param(std::string name, std::vector<int64_t> shape, ParamRole role, at::Tensor& slot);

/// What a forward is for. eval and score keep no graph; score asks the last stage for each target in place of the sum.
enum class Phase { train, recompute, eval, score };

/// What the graph of a stage holds for its backward: all that it needs, or the least, from which the rest (norms,
/// rotated queries and keys, router probabilities) is computed again by the same kernels.
enum class Keep { all, least };

/// The ranks that stages talk to by themselves.
struct ModelRanks {
  std::shared_ptr<RowExchange> experts;  ///< between those that share the experts of a layer
  Communicator& data;                    ///< all that have tokens of their own: what a global balance counts over
};

/// How experts are computed, and how tokens travel to those of other ranks.
struct MoeOptions {
  at::Device device = at::kCPU;
  Overlap overlap = Overlap::yes;
  int64_t chunks = 1;  ///< parts of a micro-batch: one is in flight while another is computed
  kernels::ExpertKernels kernels = kernels::ExpertKernels::unfused;
};

struct StageContext {
  const Batch& batch;
  Phase phase;
  Routing& routing;
  Keep keep = Keep::all;
  at::Tensor loss_seed = {};  ///< of a training pass: d(total) / d(summed cross-entropy), a float64 scalar
};

/// What a stage with experts counts in one forward: float64, detached, on the device.
struct StageStats {
  at::Tensor losses_2;   ///< load-balancing loss, router z-loss; unweighted
  at::Tensor dropped_1;  ///< assignments that were dropped
  at::Tensor counts_E;   ///< assignments to each expert, dropped ones too
};

struct StageOut {
  at::Tensor y;    ///< [N, D]; of the last stage, float64: the summed cross-entropy, a scalar, or each target's [N]
  at::Tensor aux;  ///< weighted auxiliary loss of this stage, a scalar; undefined where there is none
  std::optional<StageStats> stats = {};  ///< of a stage with num_experts() > 0
};

/// A piece of the model that is gathered, run and released as one. Knows nothing of sharding.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual std::vector<Param> params() = 0;
  /// Experts that its stats count the assignments of; 0 for a stage without stats.
  virtual int64_t num_experts() const { return 0; }
  /// x_ND is the output of the stage before; undefined for the first one, which reads the batch.
  virtual StageOut forward(const at::Tensor& x_ND, StageContext& context) = 0;
};

}  // namespace olmoe
