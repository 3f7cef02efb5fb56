// Time of a training step by kernel: each kernel alone, times its calls, with the bare GEMMs and ATen's attention as a
// lower bound (the floor), and the sum compared with a whole step through StageRunner and Optimizer.
//   step_breakdown [--shape tiny|block] [--dtype float32|bfloat16] [--threads 2] [--rounds 10]
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <c10/core/AutogradState.h>
#include <c10/core/GradMode.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <limits>

#include "bench/step_parts.h"
#include "core/error.h"
#include "core/stopwatch.h"
#include "core/targets.h"
#include "model/init.h"
#include "model/transformer.h"
#include "trainer/job/environment.h"
#include "trainer/optimizer/optimizer.h"
#include "trainer/stage_runner.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;
using bench::BatchShape;
using bench::Part;

struct Arguments {
  std::string shape = "tiny", dtype = "float32";
  int threads = 2, rounds = 10;
};

/// The two shapes of vs_transformers.py: a small model, and one block of OLMoE's width.
ModelConfig model_of(const std::string& shape) {
  ModelConfig model;
  const bool tiny = shape == "tiny";
  model.vocab_size = tiny ? 264 : 2048;
  model.num_layers = tiny ? 4 : 1;
  if (!tiny) return model;
  model.d_model = 256;
  model.num_heads = model.num_kv_heads = 4;
  model.num_experts = 16;
  model.top_k = 4;
  model.expert_width = 128;
  return model;
}
BatchShape batch_of(const std::string& shape) { return shape == "tiny" ? BatchShape{8, 256} : BatchShape{1, 1024}; }

Batch random_batch(BatchShape shape, int64_t vocab_size) {
  auto ids_BS = at::empty({shape.sequences, shape.length}, at::kLong).random_(0, vocab_size);
  auto targets_BS = at::full(ids_BS.sizes(), kIgnoredTarget, at::kLong);
  targets_BS.narrow(1, 0, shape.length - 1).copy_(ids_BS.narrow(1, 1, shape.length - 1));
  return {ids_BS, targets_BS, shape.sequences * (shape.length - 1)};
}

/// A model on one rank and its optimizer, repeating one batch, as in Trainer::train_step.
class WholeStep {
 public:
  WholeStep(const ModelConfig& model, BatchShape shape, at::ScalarType dtype)
      : batch_(random_batch(shape, model.vocab_size)),
        world_(make_single_communicator()),
        mesh_(*world_, {}),
        runner_(make_stages(model, mesh_), mesh_, {dtype, at::kCPU, Residency::resident, /*recompute=*/false}),
        optimizer_(runner_.units(), config_) {
    fill_weights(runner_.units(), random_init(model, /*seed=*/1));
  }

  void run() {
    runner_.reset_totals();
    runner_.train_micro_batch(batch_, loss_scale(batch_.num_targets, /*aux_share=*/1.0));
    update();
  }

  /// The kernels of a step that update the parameters.
  std::vector<Part> state_parts() {
    return {{"gradient norm", 1, [this] { optimizer_.grad_norm(*world_); }, {}},
            {"AdamW and rounding", 1, [this] { optimizer_.step(++step_, config_.lr, at::ones({}, at::kDouble)); }, {}}};
  }

 private:
  void update() { optimizer_.step(++step_, config_.lr, optimizer_.grad_norm(*world_)); }

  const OptimizerConfig config_;
  Batch batch_;
  std::unique_ptr<Communicator> world_;
  DeviceMesh mesh_;
  StageRunner runner_;
  Optimizer optimizer_;
  int64_t step_ = 0;
};

struct Timing {
  double run_ms = std::numeric_limits<double>::infinity();
  double floor_ms = 0;
};

double elapsed_ms(const std::function<void()>& f) {
  const Stopwatch watch;
  f();
  return watch.elapsed_s() * 1e3;
}

/// Minimum time of each part over rounds through all parts, so that caches are as cold as within a step.
std::vector<Timing> time_parts(const std::vector<Part>& parts, int rounds) {
  std::vector<Timing> timings(parts.size());
  for (size_t p = 0; p < parts.size(); ++p)
    if (parts[p].floor) timings[p].floor_ms = std::numeric_limits<double>::infinity();
  for (int round = 0; round < rounds; ++round) {
    for (size_t p = 0; p < parts.size(); ++p) {
      const auto count = static_cast<double>(parts[p].count);
      timings[p].run_ms = std::min(timings[p].run_ms, count * elapsed_ms(parts[p].run));
      if (parts[p].floor) timings[p].floor_ms = std::min(timings[p].floor_ms, count * elapsed_ms(parts[p].floor));
    }
  }
  return timings;
}

void print_table(const std::vector<Part>& parts, const std::vector<Timing>& timings, double step_ms) {
  Timing sum{0, 0};
  std::puts("| part | calls | ms | share | floor ms |\n| --- | ---: | ---: | ---: | ---: |");
  for (size_t p = 0; p < parts.size(); ++p) {
    const auto& [run_ms, floor_ms] = timings[p];
    std::printf("| %s | %d | %.2f | %.1f %% | ", parts[p].name.c_str(), static_cast<int>(parts[p].count), run_ms,
                100 * run_ms / step_ms);
    std::puts(floor_ms > 0 ? fmt::format("{:.2f} |", floor_ms).c_str() : "|");
    sum.run_ms += run_ms;
    sum.floor_ms += floor_ms;
  }
  std::printf("| sum of parts | | %.2f | %.1f %% | %.2f |\n", sum.run_ms, 100 * sum.run_ms / step_ms, sum.floor_ms);
  std::printf("| whole step | | %.2f | 100 %% | |\n", step_ms);
}

void measure(const Arguments& arguments) {
  const auto model = model_of(arguments.shape);
  const auto batch = batch_of(arguments.shape);
  const auto dtype = arguments.dtype == "float32" ? at::kFloat : at::kBFloat16;
  at::AutogradState::get_tls_state().set_multithreading_enabled(false);
  WholeStep step(model, batch, dtype);
  step.run();  // the first step allocates
  double step_ms = std::numeric_limits<double>::infinity();
  for (int round = 0; round < arguments.rounds; ++round) step_ms = std::min(step_ms, elapsed_ms([&] { step.run(); }));

  at::NoGradGuard no_grad;
  auto parts = bench::model_parts(model, batch, dtype);
  for (auto& part : step.state_parts()) parts.push_back(std::move(part));
  std::printf("\n%s, %s, %d threads, %d x %d tokens; least of %d\n\n", arguments.shape.c_str(), arguments.dtype.c_str(),
              at::get_num_threads(), static_cast<int>(batch.sequences), static_cast<int>(batch.length),
              arguments.rounds);
  print_table(parts, time_parts(parts, arguments.rounds), step_ms);
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  CLI::App app{"Times each kernel of a training step, and the step. Needs an idle machine."};
  app.add_option("--shape", arguments.shape, "model and batch")->check(CLI::IsMember({"tiny", "block"}));
  app.add_option("--dtype", arguments.dtype, "compute dtype")->check(CLI::IsMember({"float32", "bfloat16"}));
  app.add_option("--threads", arguments.threads, "intra-op threads")->check(CLI::Range(1, 1024));
  app.add_option("--rounds", arguments.rounds, "times that each part is run; the least counts")
      ->check(CLI::Range(1, 100000));
  CLI11_PARSE(app, argc, argv);
  try {
    at::set_num_threads(arguments.threads);
    measure(arguments);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
  return 0;
}
