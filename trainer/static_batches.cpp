#include "trainer/static_batches.h"

#include <ATen/ops/empty_like.h>

#include "core/error.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {

void StaticBatches::load(const std::function<Batch()>& next) {
  for (int64_t round = 0; round < rounds_; ++round) {
    const Batch host = next();
    if (std::ssize(batches_) == round) {
      const auto place = [&](const at::Tensor& x) { return at::empty_like(x, x.options().device(device_)); };
      batches_.push_back({place(host.ids_BS), place(host.targets_BS), host.num_targets});
    }
    const Batch& here = of_round(round);
    ENSURE(host.ids_BS.sizes() == here.ids_BS.sizes() && host.num_targets == here.num_targets,
           "round {}: a batch of {} sequences with {} targets, the first step's had {} and {}", round,
           host.ids_BS.size(0), host.num_targets, here.ids_BS.size(0), here.num_targets);
    send(host.ids_BS, here.ids_BS);
    send(host.targets_BS, here.targets_BS);
  }
}

}  // namespace olmoe
