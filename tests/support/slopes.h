// Gradients of a whole model beside finite differences of its losses.
#pragma once
#include "support/oracle_check.h"

namespace olmoe::test {

/// What a step minimises, of one micro-batch and all buffers as they are.
inline double objective(OneRank& rank, const ModelConfig& model, const Batch& batch) {
  rank.runner.reset_totals();
  rank.pass(batch);
  const auto& totals = rank.runner.totals();
  const double of_targets =
      totals.losses_3[0].item<double>() + model.output_z_weight * totals.output_z_1.item<double>();
  return of_targets / static_cast<double>(batch.num_targets) +
         model.load_balancing_weight * totals.losses_3[1].item<double>() +
         model.router_z_weight * totals.losses_3[2].item<double>();
}

/// Moves all weights by `step` along a wave through them; returns what the gradients in `grads` say of it.
inline double move_weights(OneRank& rank, double step, const FlatParams& grads) {
  double slope = 0;
  for (const auto& unit : rank.runner.units()) {
    for (const auto& slice : unit->slices()) {
      auto part = unit->shard.narrow(0, slice.offset, slice.end - slice.begin);
      const auto wave = at::arange(part.numel(), part.options()).mul(1.7).add(static_cast<double>(slice.offset)).cos();
      part.add_(wave, step);
      if (!grads.empty()) slope += (grads.at(slice.name) * wave).sum().item<double>();
    }
    unit->invalidate();
  }
  return slope;
}

inline void check_slope(const ModelConfig& model, const Batch& batch) {
  constexpr double kStep = 1e-6;
  OneRank rank(model, at::kDouble);
  rank.uneven_buffers();
  rank.pass(batch);
  const double slope = move_weights(rank, kStep, whole_params(rank.runner, &ShardedUnit::grad));
  const double above = objective(rank, model, batch);
  move_weights(rank, -2 * kStep, {});
  const double below = objective(rank, model, batch);
  CHECK(std::abs(slope) > 1e-2);
  CHECK((above - below) / (2 * kStep) == Approx(slope).epsilon(1e-6));
}
inline void check_slope(const ModelConfig& model) { check_slope(model, oracle_batch(model)); }

}  // namespace olmoe::test
