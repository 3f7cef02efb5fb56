#include "trainer/inspection/loaded_model.h"

#include "kernels/attention.h"
#include "model/transformer.h"
#include "parallel/agreement.h"
#include "trainer/run_options.h"
#include "trainer/weights.h"

namespace olmoe {

ResolvedRun forward_run(const SavedModel& saved, const ForwardLayout& layout, int world_size) {
  auto config = saved.config;
  config.parallel = {};
  config.parallel.expert = layout.expert;
  config.train.compute_dtype = layout.compute_dtype;
  config.train.device = layout.device;
  config.train.recompute = Recompute::none;
  config.train.cuda_graph = false;
  config.train.expert_kernels = kernels::ExpertKernels::unfused;  // for every dtype and device
  config.train.attention_kernel = kernels::AttentionKernel::flash;
  config.train.micro_batch_size = layout.micro_batch;
  config.train.global_batch_size = layout.micro_batch * world_size;
  config.train.batch_size_warmup = {};
  return resolve_run(config, world_size);
}

LoadedModel::LoadedModel(const SavedModel& saved, const ResolvedRun& run, Communicator& world)
    : run_(run), mesh_(world, run.mesh) {
  const auto& train = run_.config.train;
  const auto attention = kernels::make_attention_method(train.attention_kernel, train.deterministic_attention);
  runner_ = std::make_unique<StageRunner>(make_stages(run_.config.model, mesh_, moe_options(run_), attention), mesh_,
                                          runner_options(run_));
  agree(world, [&] {
    fill_weights(runner_->units(), saved.weights());
    fill_buffers(runner_->buffers(), saved.folder);
  });
}

}  // namespace olmoe
