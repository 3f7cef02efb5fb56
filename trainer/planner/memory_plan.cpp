#include "trainer/planner/memory_plan.h"

#include <algorithm>
#include <array>

#include "core/text.h"
#include "trainer/config/save_cadence.h"
#include "trainer/planner/activation_plan.h"

namespace olmoe {
namespace {

/// Elements of buffers, one for each stage or two that stages of equal parity share.
struct Buffers {
  int64_t of_all_stages = 0;
  std::array<int64_t, 2> by_parity{0, 0};
  void add(size_t stage, int64_t numel) {
    of_all_stages += numel;
    by_parity[stage % 2] = std::max(by_parity[stage % 2], numel);
  }
  int64_t pooled() const { return by_parity[0] + by_parity[1]; }
};

/// Fills in what a pass takes, or the slice that initial weights are made in where that is more.
void add_activations(MemoryPlan& plan, const Config& config, const ModelOnMesh& model, int64_t slice_bytes,
                     int multiprocessors) {
  const auto& train = config.train;
  const bool on_cpu = train.device == DeviceKind::cpu;
  const int64_t tokens = std::min(train.micro_batch_size, train.global_batch_size) * config.data.sequence_length;
  // The loader's are in host memory: those ready, the one that waits for room, and those of the step.
  // On a GPU there is one, or with a graph those of the step.
  const int64_t of_step = train.batches(int64_t{model.mesh.replicate} * model.mesh.shard).accumulation_steps();
  const int64_t ready = std::max(config.data.prefetch, of_step);
  const int64_t num_batches = on_cpu ? ready + 1 + of_step : train.cuda_graph ? of_step : 1;
  const auto peak = peak_activations(config, model, multiprocessors);
  const int64_t angle = std::max<int64_t>(element_bytes(train.compute_dtype), 4);
  plan.batches = num_batches * tokens * 2 * static_cast<int64_t>(sizeof(int64_t));
  int64_t angle_rows = 0;  // one without rotary embedding
  for (const auto& block : config.model.blocks())
    angle_rows += block.attention.rotary ? config.data.sequence_length : 1;
  plan.tables = angle_rows * config.model.head_dim() * angle;
  plan.activations = peak.saved;
  plan.temporaries = peak.temporaries;
  plan.peak = peak.name;
  const int64_t of_muon = model.muon.temporaries(element_bytes(train.compute_dtype), angle);
  if (of_muon > peak.total()) {
    plan.activations = 0;
    plan.temporaries = of_muon;
    plan.peak = "matrices of Muon";
  }
  if (!on_cpu || slice_bytes <= plan.batches + plan.tables + plan.activations + plan.temporaries) return;
  plan.batches = plan.tables = plan.activations = 0;
  plan.temporaries = slice_bytes;
  plan.peak = "initial weights";
}

}  // namespace

std::vector<MemoryPlan::Kind> MemoryPlan::kinds() const {
  std::vector<Kind> out{{"weights", weights},
                        {"gradients", gradients},
                        {"moments", moments},
                        {"gathered weights", gathered_weights},
                        {"full gradients", full_gradients},
                        {"reduce buffer", reduce_buffer},
                        {"batches", batches},
                        {"tables", tables},
                        {"activations", activations},
                        {"temporaries", temporaries}};
  if (checkpoint_copy > 0 && !on_gpu) out.push_back({"checkpoint copy", checkpoint_copy});
  return out;
}

int64_t MemoryPlan::total() const {
  int64_t sum = 0;
  for (const auto& kind : kinds()) sum += kind.size_bytes;
  return sum;
}

MemoryPlan plan_memory(const Config& config, const ModelOnMesh& model, int multiprocessors) {
  const int64_t element = element_bytes(config.train.compute_dtype), master = std::max<int64_t>(element, 4);
  const int64_t zero_stage = config.parallel.zero_stage;
  Buffers weights, grads;
  int64_t tied_weights = 0, tied_grads = 0;  // never in a pool
  int64_t mine = 0, largest_slice = 0, widest = 0;
  for (size_t s = 0; s < model.stages.size(); ++s) {
    int64_t stage_weights = 0, stage_grads = 0;
    const auto& of_stage = model.stages[s];
    for (const auto* unit : of_stage.all()) {
      const bool is_tied = unit == &of_stage.tied || unit == &of_stage.tied_experts;
      const bool whole =
          unit->ranks == 1;  // computes from its own slice where that has the dtype, adds to its gradient
      mine += unit->slice();
      largest_slice = std::max(largest_slice, std::min(unit->largest, unit->slice()));
      (is_tied ? tied_weights : stage_weights) += whole && element == master ? 0 : unit->numel;
      (is_tied ? tied_grads : stage_grads) += whole ? 0 : unit->numel;
      widest = std::max(widest, whole ? 0 : unit->numel);
    }
    weights.add(s, stage_weights);
    grads.add(s, stage_grads);
  }
  MemoryPlan plan{};
  plan.weights = plan.gradients = mine * master;
  plan.moments = model.trained.moments() * master;
  plan.on_gpu = config.train.device == DeviceKind::cuda;
  if (saves_async(config.checkpoint)) plan.checkpoint_copy = plan.weights + plan.moments;
  plan.gathered_weights = (tied_weights + (zero_stage == 3 ? weights.pooled() : weights.of_all_stages)) * element;
  plan.full_gradients = (tied_grads + (zero_stage == 1 ? grads.of_all_stages : grads.pooled())) * master;
  if (config.parallel.reduce_dtype == ReduceDtype::bfloat16)
    plan.reduce_buffer =
        widest * element_bytes(ComputeDtype::bfloat16) * (config.train.device == DeviceKind::cuda ? 2 : 1);
  add_activations(plan, config, model, largest_slice * master, multiprocessors);
  return plan;
}

MemoryPlan plan_memory(const Config& config, MeshShape mesh, int multiprocessors) {
  return plan_memory(config, ModelOnMesh(config, mesh), multiprocessors);
}

std::string describe(const MemoryPlan& plan) {
  std::string sum;
  for (const auto& kind : plan.kinds())
    sum += fmt::format("{}{} {}", sum.empty() ? "" : " + ", kind.name, describe_size(kind.size_bytes));
  return fmt::format(
      "{} = {}; most at the {}{}", describe_size(plan.total()), sum, plan.peak,
      plan.on_gpu && plan.checkpoint_copy > 0
          ? fmt::format("; in host memory {} for the copy of an asynchronous save", describe_size(plan.checkpoint_copy))
          : std::string());
}

}  // namespace olmoe
