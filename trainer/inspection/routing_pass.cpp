#include "trainer/inspection/routing_pass.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/stack.h>

#include <algorithm>

#include "core/targets.h"
#include "model/head.h"

namespace olmoe {
namespace {

/// The ids that the model finds most likely to follow, from the input of its head; logits of some tokens at a time.
at::Tensor predicted_ids(StageRunner& runner, const at::Tensor& x_ND, const Batch& batch, int64_t chunk) {
  const auto& head = dynamic_cast<const Head&>(runner.last_stage());
  std::vector<at::Tensor> ids{batch.ids_BS.flatten().narrow(0, 0, 0)};
  for (int64_t first = 0; first < x_ND.size(0); first += chunk)
    ids.push_back(head.logits(x_ND.narrow(0, first, std::min(chunk, x_ND.size(0) - first))).argmax(-1).cpu());
  return at::cat(ids).view(batch.ids_BS.sizes());
}

}  // namespace

void RoutingPass::run(LoadedModel& model, Communicator& world) const {
  const auto size = static_cast<size_t>(world.size()), rank = static_cast<size_t>(world.rank());
  for (size_t first = 0; first < batches.size(); first += size) {
    const auto mine = first + rank < batches.size() ? batches[first + rank] : TokenBatch{};
    auto batch = make_batch(*domains.at(static_cast<size_t>(mine.domain)).source, mine.first, mine.count);
    if (replay) batch.experts_LNK = replay->experts_of(batch.ids_BS);
    RoutingProbe probe;
    probe.output_peaks = peaks_LE != nullptr;
    const auto x_ND = model.runner().run_to_last(batch, &probe);
    if (peaks_LE) *peaks_LE = at::maximum(*peaks_LE, at::stack(probe.peaks_E));
    const auto predicted_BS = predicts ? predicted_ids(model.runner(), x_ND, batch, model.config().loss_chunk)
                                       : at::full_like(batch.ids_BS, kIgnoredTarget);
    take({{.first = mine.first_token,
           .domain = mine.domain,
           .ids_BS = batch.ids_BS,
           .next_BS = batch.targets_BS,
           .predicted_BS = predicted_BS,
           .experts_LNK = at::stack(probe.experts_NK).cpu()},
          at::stack(probe.gates_NK).cpu()});
  }
}

}  // namespace olmoe
