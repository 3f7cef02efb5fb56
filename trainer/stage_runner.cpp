#include "trainer/stage_runner.h"

#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <functional>
#include <set>
#include <string>

#include "core/error.h"

namespace olmoe {
namespace {

at::ScalarType master_dtype(at::ScalarType compute) { return compute == at::kDouble ? at::kDouble : at::kFloat; }

UnitParam unit_param(Param& param) {
  return {param.name, param.shape,    param.global_shape, param.first,
          param.slot, param.to_store, param.role,         param.parts};
}

/// Copies host memory through pinned memory, and so without a host sync.
at::Tensor copy_to(const at::Tensor& host, at::Device device) {
  return host.pin_memory().to(device, /*non_blocking=*/true);
}

/// A batch of the loader, which is in host memory.
Batch on_device(const Batch& batch, at::Device device) {
  if (batch.ids_BS.device().type() == device.type()) return batch;
  const auto copy = [&](const at::Tensor& host) { return copy_to(host, device); };
  Batch here{copy(batch.ids_BS), copy(batch.targets_BS), batch.num_targets, batch.num_masked};
  if (batch.bounds.defined()) here.bounds = copy(batch.bounds);
  here.bounds_cpu = batch.bounds_cpu;
  if (batch.experts_LNK.defined()) here.experts_LNK = copy(batch.experts_LNK);
  return here;
}

Overlap overlap_of(const StageRunner::Options& options) { return options.overlap ? Overlap::yes : Overlap::no; }

}  // namespace

LossScale loss_scale(int64_t num_targets, double aux_share, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kDouble).device(device);
  return {at::full({}, 1.0 / static_cast<double>(num_targets), options), aux_share};
}

StageRunner::StageRunner(std::vector<std::unique_ptr<Stage>> stages, DeviceMesh& mesh, Options options)
    : stages_(std::move(stages)),
      replicate_(mesh.replicate()),
      sharding_{&mesh.shard(), &mesh.expert_shard()},
      options_(options),
      gather_stream_(options.device, overlap_of(options)),
      reduce_stream_(options.device, overlap_of(options)),
      saved_(stages_.size()) {
  number_moe_layers();
  make_units(mesh);
  bind_units();
  place_buffers();
  reset_totals();
}

void StageRunner::number_moe_layers() {
  for (const auto& stage : stages_) {
    const int64_t experts = stage->num_experts();
    moe_layer_of_.push_back(experts > 0 ? num_moe_layers_++ : -1);
    if (experts == 0) continue;
    ENSURE(num_experts_ == 0 || num_experts_ == experts, "layers of {} and of {} experts", num_experts_, experts);
    num_experts_ = experts;
  }
}

void StageRunner::place_buffers() {
  std::vector<StageBuffer> all;
  for (const auto& stage : stages_)
    for (auto& buffer : stage->state().buffers) all.push_back(std::move(buffer));
  buffer_slices_.reserve(all.size());  // the state refers to them
  std::set<std::string> names;
  for (const auto& [name, tensor] : all) {
    ENSURE(names.insert(name).second, "two buffers of stages are called {}", name);
    ENSURE(tensor->scalar_type() == at::kFloat || tensor->scalar_type() == at::kDouble,
           "buffer {} is {}: a checkpoint holds fp32 or float64", name, c10::toString(tensor->scalar_type()));
    *tensor = tensor->to(options_.device).contiguous();
    const auto& slice = buffer_slices_.emplace_back(Slice{name, tensor->sizes().vec(), 0, tensor->numel(), 0});
    buffers_.push_back({"buffer", std::span(&slice, 1), tensor->view({-1}), /*on_all_ranks=*/true});
  }
}

void StageRunner::make_units(DeviceMesh& mesh) {
  units_of_.resize(stages_.size());
  for (size_t s = 0; s < stages_.size(); ++s) {
    auto params = stages_[s]->state().params;
    for (const bool tied : {false, true})
      for (const auto axis : {Axis::shard, Axis::expert_shard}) {
        std::vector<UnitParam> of_unit;
        std::vector<size_t> later_users;
        for (auto& param : params) {
          if (param.axis != axis || param.is_tied() != tied) continue;
          ENSURE(of_unit.empty() || param.later_users == later_users, "{} has other users than {}", param.name,
                 of_unit.front().name);
          later_users = param.later_users;
          of_unit.push_back(unit_param(param));
        }
        if (of_unit.empty()) continue;
        units_.push_back(std::make_unique<ShardedUnit>(std::move(of_unit),
                                                       axis == Axis::shard ? mesh.shard() : mesh.expert_shard(),
                                                       options_.compute_dtype, options_.device));
        auto& unit = *units_.back();
        if (options_.registered_memory)
          unit.grad = make_buffer(unit.grad.numel(), unit.grad.scalar_type(), std::array{&mesh.replicate()});
        units_of_[s].push_back(&unit);
        for (const size_t user : later_users) units_of_.at(user).push_back(&unit);
        if (tied) tied_.emplace(&unit, s);
      }
  }
}

/// A zeroed buffer for collectives over `groups`, registered with them where Options::registered_memory says so.
at::Tensor StageRunner::make_buffer(int64_t numel, at::ScalarType dtype, std::span<Communicator* const> groups) const {
  if (!options_.registered_memory) return at::zeros({numel}, at::TensorOptions().dtype(dtype).device(options_.device));
  const auto bytes = numel * static_cast<int64_t>(c10::elementSize(dtype));
  const auto memory = groups.front()->buffers().allocate(bytes, options_.device);
  for (auto* group : groups.subspan(1)) group->buffers().register_buffer(memory);
  return memory.view(dtype);
}

/// Allocates the two pooled buffers for the units that `shares` selects. Stages of equal parity share one; units of a
/// stage lie next to each other in it.
std::map<const ShardedUnit*, PoolRange> StageRunner::share_buffers(
    const std::function<bool(const ShardedUnit&)>& shares, at::ScalarType dtype) const {
  std::array<int64_t, 2> numel{0, 0};
  std::map<const ShardedUnit*, int64_t> begins;
  for (size_t s = 0; s < stages_.size(); ++s) {
    int64_t end = 0;
    for (const auto* unit : units_of_[s])
      if (shares(*unit)) begins[unit] = end, end += unit->flat_numel();
    numel[s % 2] = std::max(numel[s % 2], end);
  }
  const std::array pools{GatherPool(make_buffer(numel[0], dtype, sharding_)),
                         GatherPool(make_buffer(numel[1], dtype, sharding_))};
  std::map<const ShardedUnit*, PoolRange> ranges;
  for (size_t s = 0; s < stages_.size(); ++s)
    for (const auto* unit : units_of_[s])
      if (shares(*unit)) ranges.emplace(unit, pools[s % 2].range(begins[unit], unit->flat_numel()));
  return ranges;
}

/// Binds each unit to its buffers. A unit that is whole on this rank computes from its shard and adds to its gradient
/// directly; others have a buffer of their own or share a pooled one. A tied unit has its own: the last of its stages
/// makes its first gradient and the first of them its last, while others use the pools.
void StageRunner::bind_units() {
  const auto master = master_dtype(options_.compute_dtype);
  const auto whole = [](const ShardedUnit& unit) { return unit.shard.numel() == unit.flat_numel(); };
  const auto aliases = [&](const ShardedUnit& unit) { return whole(unit) && options_.compute_dtype == master; };
  const auto pooled = [&](const ShardedUnit& unit) {
    return options_.residency == Residency::pooled && !aliases(unit) && !tied_.contains(&unit);
  };
  const auto weights = share_buffers(pooled, options_.compute_dtype);
  const bool pooled_grads = options_.grads == Residency::pooled;
  const auto grads = share_buffers(
      [&](const ShardedUnit& unit) { return pooled_grads && !whole(unit) && !tied_.contains(&unit); }, master);
  int64_t widest = 0;
  for (const auto& unit : units_) {
    const auto own_weights = [&] {
      if (aliases(*unit)) return PoolRange(unit->shard);
      return PoolRange(make_buffer(unit->flat_numel(), options_.compute_dtype, sharding_));
    };
    const auto own_grads = [&] {
      return PoolRange(whole(*unit) ? unit->grad : make_buffer(unit->flat_numel(), master, sharding_));
    };
    unit->bind(pooled(*unit) ? weights.at(unit.get()) : own_weights(),
               grads.contains(unit.get()) ? grads.at(unit.get()) : own_grads());
    if (!whole(*unit)) widest = std::max(widest, unit->flat_numel());
  }
  if (options_.reduce_dtype) reduce_buffer_ = make_buffer(widest, *options_.reduce_dtype, sharding_);
}

void StageRunner::reset_totals() {
  const auto options = at::TensorOptions().dtype(at::kDouble).device(options_.device);
  totals_ = {at::zeros({3}, options), at::zeros({num_moe_layers_, num_experts_}, options), at::zeros({1}, options),
             at::zeros({1}, options), at::zeros({1}, options)};
  copies_ = {};
}

/// Does nothing for units that are gathered or whose gather is in flight.
void StageRunner::gather(size_t stage) {
  gather_stream_.run([&] {
    for (auto* unit : units_of_[stage]) unit->gather();
  });
}

void StageRunner::reduce(size_t stage) {
  reduce_stream_.run([&] {
    for (auto* unit : units_of_[stage]) {
      const auto tied = tied_.find(unit);
      if (tied == tied_.end() || tied->second == stage) unit->reduce_grads(reduce_buffer_);  // its last gradients
    }
  });
}

void StageRunner::release(size_t stage) {
  if (options_.residency == Residency::resident) return;  // stays gathered until the optimizer step
  for (auto* unit : units_of_[stage])
    if (!tied_.contains(unit)) unit->release();
}

void StageRunner::train_micro_batch(const Batch& batch, LossScale scale, bool last_of_step) {
  const auto here = on_device(batch, options_.device);
  totals_.losses_3[0] += forward(here, Phase::train, stages_.size(), {.loss_seed = scale.per_target});
  backward(here, scale.per_target, scale.aux_share, /*reduces=*/last_of_step || options_.grads == Residency::pooled);
}

at::Tensor StageRunner::evaluate(const Batch& batch) {
  return forward(on_device(batch, options_.device), Phase::eval, stages_.size(), {});
}

at::Tensor StageRunner::score(const Batch& batch) {
  const auto losses_N = forward(on_device(batch, options_.device), Phase::score, stages_.size(), {});
  return losses_N.neg().view(batch.ids_BS.sizes());
}

at::Tensor StageRunner::score(const Batch& batch, const Candidates& candidates) {
  const bool there = candidates.ids_C.device().type() == options_.device.type();
  const auto here =
      there ? candidates
            : Candidates{copy_to(candidates.positions_C, options_.device), copy_to(candidates.ids_C, options_.device)};
  return forward(on_device(batch, options_.device), Phase::score, stages_.size(), {.candidates = &here}).neg();
}

at::Tensor StageRunner::run_to_last(const Batch& batch, RoutingProbe* probe) {
  const auto phase = probe ? Phase::score : Phase::eval;
  auto x = forward(on_device(batch, options_.device), phase, stages_.size() - 1, {.probe = probe});
  gather(stages_.size() - 1);
  gather_stream_.wait();
  return x;
}

// The schedule. Three streams: the caller's compute stream, a side stream that gathers one stage ahead, and one that
// reduces one stage behind. Work on a side stream starts after everything enqueued on the compute stream before it. The
// other dependencies:
//   weights of stage s    The compute stream waits for their gather before it computes s. The next gather is enqueued
//                         only then, so that the wait does not include it.
//   buffer of weights     Shared by every second stage. Stage s+1 is gathered into the buffer of s-1 (backward: s-1
//   into
//                         that of s+1) once the last reader of s-1 is enqueued, and before s is.
//   buffer of gradients   Claimed on the compute stream for stage s-1, and zeroed where gradients are added to it,
//   after
//                         the wait for the reduction of s+1, its last reader. That wait comes just before the reduction
//                         of s, which overlaps the backward of s-1. The last stage makes gradients in its forward and
//                         claims its buffer before it, when no reduction is in flight.
//   other tensors         Tensors that side streams use live as long as the runner. (Communicators may allocate
//                         temporary tensors on a side stream, and use them nowhere else.)
//   shard, grad           The optimizer runs on the compute stream, after all gathers and reductions.
at::Tensor StageRunner::forward(const Batch& batch, Phase phase, size_t num_stages, const ForwardOptions& options) {
  const auto& given = batch.experts_LNK;
  ENSURE(!given.defined() || given.size(0) == num_moe_layers_, "experts of {} layers, the model has {} with experts",
         given.size(0), num_moe_layers_);
  at::Tensor x;  // undefined for the first stage, which reads the batch
  for (size_t s = 0; s < num_stages; ++s) {
    // The last stage's backward follows its forward at once: recomputing it would save no memory.
    const bool keep_graph = phase == Phase::train && (!options_.recompute || s + 1 == stages_.size());
    auto& saved = saved_[s];
    saved = {};
    if (x.defined()) saved.x = x.requires_grad_(phase == Phase::train);
    if (phase == Phase::train && step_counts_LE_.defined() && moe_layer_of_[s] >= 0)
      saved.routing.balance_counts_UE = step_counts_LE_.narrow(0, moe_layer_of_[s], 1);
    if (given.defined() && moe_layer_of_[s] >= 0) saved.routing.ids_NK = given[moe_layer_of_[s]];
    StageContext context{.batch = batch,
                         .phase = phase,
                         .routing = saved.routing,
                         .save_policy = options_.save_policy,
                         .loss_seed = options.loss_seed,
                         .candidates = options.candidates,
                         .probe = options.probe};
    gather(s);  // for the first stage: the others were gathered ahead
    gather_stream_.wait();
    if (s + 1 < num_stages) gather(s + 1);
    if (phase == Phase::train && s + 1 == stages_.size()) claim_grads(s);
    {
      at::AutoGradMode grad_mode(keep_graph);
      saved.out = stages_[s]->forward(saved.x, context);
    }
    if (phase != Phase::train || s + 1 < stages_.size()) release(s);  // the last stage's backward is next
    x = saved.out.y.detach();
    if (options.counts_LE) add_counts(s, *options.counts_LE);
    if (!keep_graph) saved.out = {{}, {}, std::move(saved.out.stats)};
  }
  if (phase != Phase::train) std::fill(saved_.begin(), saved_.end(), Saved{});
  return x;
}

void StageRunner::backward(const Batch& batch, const at::Tensor& loss_seed, double aux_share, bool reduces) {
  auto dy = loss_seed;
  for (size_t s = stages_.size(); s-- > 0;) {
    add_to_totals(s, aux_share);
    gather(s);
    gather_stream_.wait();
    if (s > 0) gather(s - 1);
    backward_stage(s, batch, dy, aux_share);
    reduce_stream_.wait();  // for stage s + 1, whose gradient buffer s - 1 uses next
    if (reduces) reduce(s);
    release(s);
    if (s > 0) dy = saved_[s].x.grad();
    saved_[s] = {};
  }
  reduce_stream_.wait();
}

/// Call before a stage makes gradients: its full gradients are then zero, to be overwritten, or this step's sum so far.
void StageRunner::claim_grads(size_t stage) {
  for (auto* unit : units_of_[stage]) {
    ENSURE(unit->gathered(), "stage {}: the weights of {} are not in their buffer", stage, unit->params().front().name);
    unit->claim_full_grads();
  }
}

void StageRunner::backward_stage(size_t stage, const Batch& batch, const at::Tensor& dy, double aux_share) {
  auto& saved = saved_[stage];
  if (!saved.out.y.defined()) {
    StageContext context{batch, Phase::recompute, saved.routing};
    at::AutoGradMode grad_mode(true);
    saved.out = stages_[stage]->forward(saved.x, context);
  }
  claim_grads(stage);
  std::vector<at::Tensor> roots{saved.out.y}, seeds{dy};
  if (saved.out.aux.defined()) {
    roots.push_back(saved.out.aux);
    seeds.push_back(at::full_like(saved.out.aux, aux_share));
  }
  torch::autograd::backward(roots, seeds);
}

void StageRunner::add_counts(size_t stage, at::Tensor& counts_LE) const {
  if (const auto& stats = saved_[stage].out.stats) counts_LE[moe_layer_of_[stage]].add_(stats->counts_E);
}

void StageRunner::begin_step(std::span<const Batch> batches, Communicator& world) {
  auto balance = StepBalance::none;
  for (const auto& stage : stages_) balance = std::max(balance, stage->step_balance());
  const bool within_forward = batches.size() == 1 && balance == StepBalance::layer;  // the router adds its own counts
  if (balance == StepBalance::none || within_forward) return;
  auto counts_LE = at::zeros_like(totals_.counts_LE);
  for (const auto& batch : batches)
    forward(on_device(batch, options_.device), Phase::eval, stages_.size() - 1, {.counts_LE = &counts_LE});
  world.all_reduce(counts_LE);
  step_counts_LE_ = balance == StepBalance::layer ? counts_LE : counts_LE.mean(0, true).expand_as(counts_LE);
}

void StageRunner::end_step(const LocalTotals& totals, const at::Tensor& finite) {
  for (size_t s = 0; s < stages_.size(); ++s) {
    const auto layer = moe_layer_of_[s];
    if (layer < 0) continue;
    const auto& quantiles = totals.quantiles_LE1;
    stages_[s]->end_step({totals.counts_LE[layer], quantiles.defined() ? quantiles[layer] : quantiles, finite});
  }
  step_counts_LE_.reset();
}

void StageRunner::reduce_replicas() {
  for (const auto& unit : units_) replicate_.all_reduce(unit->grad);
}

void StageRunner::add_to_totals(size_t stage, double aux_share) {
  const auto& [y, aux, stats, output_z] = saved_[stage].out;
  if (output_z.defined()) totals_.output_z_1.add_(output_z);
  if (!stats) return;
  const double weight = aux_share / static_cast<double>(num_moe_layers_);
  totals_.losses_3.narrow(0, 1, 2).add_(stats->losses_2, weight);
  totals_.dropped_1.add_(stats->dropped_1);
  totals_.entropy_1.add_(stats->entropy_1, weight);
  add_counts(stage, totals_.counts_LE);
  if (stats->quantiles_E1.defined()) {
    auto& all = totals_.quantiles_LE1;
    if (!all.defined()) all = at::zeros({num_moe_layers_, num_experts_ + 1}, totals_.counts_LE.options());
    all[moe_layer_of_[stage]].add_(stats->quantiles_E1);
  }
  for (const auto& plan : saved_[stage].routing.plans) {
    copies_.sent += plan.exchanged.sent;
    copies_.received += plan.exchanged.received;
  }
}

}  // namespace olmoe
