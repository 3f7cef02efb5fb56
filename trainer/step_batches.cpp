#include "trainer/step_batches.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/full.h>

#include "core/error.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {

StepBatches take_batches(const std::function<Batch()>& next, int64_t accumulation_steps, at::Device device) {
  StepBatches step;
  int64_t targets = 0, masked = 0;
  for (int64_t i = 0; i < accumulation_steps; ++i) {
    step.batches.push_back(next());
    targets += step.batches.back().num_targets;
    masked += step.batches.back().num_masked;
  }
  step.counts_2 = at::full({2}, targets, at::TensorOptions().dtype(at::kLong).device(device));
  step.counts_2.narrow(0, 1, 1).fill_(masked);
  return step;
}

void StaticBatches::load(const std::function<Batch()>& next) {
  const auto host = take_batches(next, accumulation_steps_, at::kCPU);
  for (const auto& batch : host.batches)
    ENSURE(!batch.bounds.defined(), "a batch with documents, whose number is another one in each step");
  if (step_.batches.empty()) {
    const auto place = [&](const at::Tensor& x) { return at::empty_like(x, x.options().device(device_)); };
    for (const auto& batch : host.batches)
      step_.batches.push_back({place(batch.ids_BS), place(batch.targets_BS), batch.num_targets, batch.num_masked});
    step_.counts_2 = place(host.counts_2);
  }
  for (size_t i = 0; i < host.batches.size(); ++i) {
    const auto& from = host.batches[i];
    auto& here = step_.batches[i];
    ENSURE(from.ids_BS.sizes() == here.ids_BS.sizes(),
           "accumulation step {}: a batch of {} sequences, that of the first step had {}", i, from.ids_BS.size(0),
           here.ids_BS.size(0));
    here.num_targets = from.num_targets;
    here.num_masked = from.num_masked;
    send(from.ids_BS, here.ids_BS);
    send(from.targets_BS, here.targets_BS);
  }
  send(host.counts_2, step_.counts_2);
}

}  // namespace olmoe
