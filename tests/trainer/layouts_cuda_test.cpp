// Ranks that are threads and share one GPU, with the host transport, compared with one rank on a CPU.
// Tagged [cuda]; without a GPU these fail.
#include "support/catch.h"
#include "support/layout_ladder.h"

using namespace olmoe;
using namespace olmoe::test;

TEST_CASE("GPU: ranks that share it compute in each layout what one rank on a CPU does", "[cuda]") {
  const auto layout =
      GENERATE(Layout{1, 2, 1, 3}, Layout{2, 1, 1, 2}, Layout{1, 2, 2, 3}, Layout{1, 2, 2, 1}, Layout{2, 2, 2, 2});
  INFO(describe(layout));
  TempFolder folder;
  auto config = gpu_ladder_run(folder / "gpu", 4), on_cpu = config;
  on_cpu.run.folder = folder / "cpu";
  on_cpu.train.device = DeviceKind::cpu;
  on_cpu.parallel.transport = Transport::nccl;
  const auto reference = run_single(on_cpu);
  config.parallel.expert_chunks = layout.expert;
  CHECK(error_on_threads(config, layout, reference) <= 1e-11);
}

TEST_CASE("GPU: overlap changes no bit, with experts here and on other ranks", "[cuda]") {
  const auto layout = GENERATE(Layout{1, 2, 1, 3}, Layout{1, 2, 1, 1}, Layout{1, 2, 2, 3}, Layout{2, 2, 2, 2});
  const auto dtype = GENERATE(ComputeDtype::float32, ComputeDtype::bfloat16);
  INFO(describe(layout) << ", " << enum_name(dtype));
  const auto trained = [&](bool overlap) {
    TempFolder folder;
    auto config = gpu_ladder_run(folder / "run", 4);
    config.train.compute_dtype = dtype;
    config.parallel.expert_chunks = 3;
    config.parallel.overlap = overlap;
    apply(layout, config);
    std::vector<std::map<std::string, FlatParams>> state(static_cast<size_t>(layout.replicate * layout.shard));
    run_ranks(static_cast<int>(state.size()), [&](Communicator& world) {
      Trainer trainer(resolve_run(config, world.size()), world);
      ENSURE(trainer.run() == ExitCode::ok, "the run did not end well");
      state[static_cast<size_t>(world.rank())] = whole_state(trainer);
    });
    return state;
  };
  const auto with = trained(true), without = trained(false);
  for (size_t rank = 0; rank < with.size(); ++rank)
    for (const auto& [kind, tensors] : with[rank])
      for (const auto& [name, values] : tensors) {
        INFO("rank " << rank << ": " << kind << " of " << name);
        CHECK(at::equal(values, without[rank].at(kind).at(name)));
      }
}
