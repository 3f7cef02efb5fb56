// mpirun olmoe-eval MODEL [path.to.key=value ...] --tasks FILE...
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>

#include "apps/command_line.h"
#include "core/error.h"
#include "core/files/json_lines.h"
#include "core/log.h"
#include "core/reader/config_reader_yaml.h"
#include "core/stopwatch.h"
#include "core/text.h"
#include "core/version.h"
#include "model/transformer.h"
#include "parallel/agreement.h"
#include "trainer/config/config_paths.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/saved_model.h"
#include "trainer/evaluator.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"
#include "trainer/job/watchdog.h"
#include "trainer/metrics.h"
#include "trainer/run_options.h"
#include "trainer/start_agreement.h"
#include "trainer/weights.h"

namespace {

using namespace olmoe;

struct Arguments {
  std::string model, dtype;
  std::vector<std::string> overrides, tasks, sets;
  int64_t context = 0, micro_batch = 0;  ///< 0: not given
  bool json = false, ignore_unknown = false;
  TaskMetricsVersion version = TaskMetricsVersion::v1;
};

/// The model of a checkpoint or a Hugging Face folder, how it computes, and what is evaluated: a config that trains
/// nothing. Its layout is this program's own, whatever the model was trained on.
Config evaluation_of(const SavedModel& saved, const Arguments& arguments) {
  Config config;
  config.run.folder = saved.folder;  // nothing is written to it
  config.model = saved.config.model;
  const auto& trained = saved.config.train;
  config.train.steps = 1;
  config.train.device = trained.device;
  config.train.compute_dtype = trained.compute_dtype;
  config.train.micro_batch_size = arguments.micro_batch > 0 ? arguments.micro_batch : trained.micro_batch_size;
  config.train.expert_kernels = trained.expert_kernels;
  config.train.attention_kernel = trained.attention_kernel;
  config.data.dtype = saved.config.data.dtype;
  config.data.sequence_length = saved.config.data.sequence_length;
  config.data.synthetic = arguments.sets.empty();
  if (!arguments.sets.empty()) {  // in which documents are masked as in training
    config.data.paths = arguments.sets;
    config.data.document_mask = saved.config.data.document_mask;
    config.data.eos_id = saved.config.data.eos_id;
  }
  config.evaluation.paths = arguments.sets;
  config.evaluation.tasks = expand_lists(arguments.tasks);
  config.evaluation.task_metrics_version = arguments.version;
  if (arguments.context > 0) config.evaluation.context = arguments.context;
  auto overrides = arguments.overrides;
  if (!arguments.dtype.empty()) overrides.push_back("train.compute_dtype=" + arguments.dtype);
  return read_config_text<Config>(write_config(config), saved.folder, overrides);
}

/// The same, checked. Throws ConfigError with all problems.
Config checked_evaluation(const SavedModel& saved, const Arguments& arguments) {
  if (arguments.tasks.empty() && arguments.sets.empty())
    throw ConfigError("nothing to evaluate: name task files (--tasks) or token files (--sets)");
  auto config = evaluation_of(saved, arguments);
  auto problems = validate(config);
  if (problems.empty()) problems = model_differences(saved.config.model, config.model);
  if (!problems.empty()) throw ConfigError(fmt::format("{}:\n  {}", saved.folder, fmt::join(problems, "\n  ")));
  return config;
}

struct Evaluated {
  std::vector<EvalResult> results;
  EvalSize size;
  double seconds;
};

Evaluated evaluate(const SavedModel& saved, const ResolvedRun& run, Communicator& ranks) {
  DeviceMesh mesh(ranks, run.mesh);
  const Evaluator evaluator(run.config, ranks);
  std::vector<StartFact> facts;
  for (const auto& [name, fingerprint] : evaluator.fingerprints()) facts.push_back({name, fingerprint});
  require_alike(ranks, facts, "Every rank must read the same files: copy them again to the hosts that differ");
  const auto& train = run.config.train;
  const auto attention = kernels::make_attention_method(train.attention_kernel, train.deterministic_attention);
  StageRunner runner(make_stages(run.config.model, mesh, moe_options(run), attention), mesh, runner_options(run));
  agree(ranks, [&] {
    fill_weights(runner.units(), saved.weights());
    fill_buffers(runner.buffers(), saved.folder);
  });
  log::info("evaluating {}: {} tokens", saved.folder, grouped(evaluator.size().tokens));
  const Stopwatch watch;
  const auto results = evaluator.evaluate(runner, ranks, /*last=*/true, [] { return false; });
  return {results.value(), evaluator.size(), watch.elapsed_s()};
}

/// The keys of metrics.jsonl, as one line.
std::string json_of(const SavedModel& saved, const Evaluated& evaluated) {
  JsonLine line;
  line.add("model", saved.folder);
  if (saved.manifest) line.add("step", saved.manifest->step);
  for (const auto& result : evaluated.results) line.add(metric_key(result), result.value);
  line.add("evaluated_tokens", evaluated.size.tokens).add("seconds", evaluated.seconds);
  return line.str() + "\n";
}

/// A line for each task.
std::string table_of(const Evaluated& evaluated) {
  size_t widest = 0;
  for (const auto& result : evaluated.results) widest = std::max(widest, result.task.size());
  std::string out, task;
  for (const auto& result : evaluated.results) {
    if (out.empty() || result.task != task)
      out += fmt::format("{}{:<{}}", out.empty() ? "" : "\n", result.task, widest);
    task = result.task;
    out += fmt::format("  {} {:.6g}", result.metric, result.value);
  }
  return out + fmt::format("\n{} tokens in {:.1f} s: {} a second\n", grouped(evaluated.size.tokens), evaluated.seconds,
                           grouped(static_cast<int64_t>(static_cast<double>(evaluated.size.tokens) /
                                                        std::max(evaluated.seconds, 1e-9))));
}

ExitCode evaluate_on(Communicator& world, const std::string& mpi_version, const Arguments& arguments) {
  const auto saved =
      open_model(arguments.model, arguments.ignore_unknown ? UnknownKeys::ignored : UnknownKeys::refused);
  const auto config = checked_evaluation(saved, arguments);
  const auto watchdog = watch_run(config.run, world);
  agree_on_start(world, "olmoe-eval", mpi_version, config);
  agree_on_weights(world, saved.folder);
  const auto run = resolve_run(config, world.size());
  prepare_process_for(run, /*other_threads=*/0);
  const auto ranks = connect_devices(run, world);
  const auto evaluated = evaluate(saved, run, *ranks);
  if (world.rank() == 0) std::fputs((arguments.json ? json_of(saved, evaluated) : table_of(evaluated)).c_str(), stdout);
  const bool failed =
      std::ranges::any_of(evaluated.results, [](const auto& result) { return result.metric == "failed"; });
  world.barrier();
  return failed ? ExitCode::data : ExitCode::ok;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  std::string version = "v1";
  CLI::App app{
      "Scores a model on tasks and held-out token files, as a run does (evaluation.tasks, evaluation.paths). MODEL is "
      "a "
      "step's folder, a run's folder (its newest checkpoint) or a Hugging Face folder."};
  app.add_option("model", arguments.model, "checkpoint or Hugging Face folder")->required();
  app.add_option("overrides", arguments.overrides, "path.to.key=value: layout, device, data.dtype, evaluation.*");
  app.add_option("--tasks", arguments.tasks, "task files of scripts/prepare_tasks.py, or .txt lists of them");
  app.add_option("--sets", arguments.sets, "token files, one set each");
  app.add_option("--context", arguments.context, "ids of a task's text that the model sees; 2048 if not given")
      ->check(CLI::Range(2, 1 << 24));
  app.add_option("--micro-batch", arguments.micro_batch,
                 "sequences of data.sequence_length that a forward takes at most")
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--dtype", arguments.dtype, "of weights and activations; that of training if not given")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}));
  app.add_option("--metrics", version, "lengths that scores are divided by (evaluation.task_metrics_version)")
      ->check(CLI::IsMember({"v1", "v2"}))
      ->capture_default_str();
  app.add_flag("--json", arguments.json, "print one JSON object with the keys of metrics.jsonl in place of the table");
  app.add_flag("--ignore-unknown", arguments.ignore_unknown, kIgnoreUnknownHelp);
  app.set_version_flag("--version", fmt::format("olmoe-eval {} ({})", kVersion, kGitCommit));
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  arguments.version = version == "v2" ? TaskMetricsVersion::v2 : TaskMetricsVersion::v1;
  return run_launched(
      [&](Communicator& world, const std::string& mpi_version) { return evaluate_on(world, mpi_version, arguments); });
}
