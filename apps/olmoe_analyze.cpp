// mpirun olmoe-analyze CHECKPOINT|RUN|HF_FOLDER [MORE CHECKPOINTS...] --tokens NAME=FILE --out FILE.safetensors
#include <fmt/ranges.h>

#include <cstdio>
#include <filesystem>

#include "apps/command_line.h"
#include "core/version.h"
#include "parallel/agreement.h"
#include "trainer/analysis/array_file.h"
#include "trainer/inspection/routing_analysis.h"
#include "trainer/job/devices.h"
#include "trainer/job/environment.h"
#include "trainer/job/launch.h"

namespace {

using namespace olmoe;

struct Arguments {
  AnalysisOptions options;
  std::vector<std::string> tokens;
  std::string out, dtype = "float32", device = "cpu", token_dtype;
  int64_t threads = 0;
  bool ignore_unknown = false;
};

/// Adds NAME=FILE to the domains; several files of one name are one domain. Throws ConfigError.
void add_tokens(const std::string& argument, std::vector<AnalysisOptions::Domain>& domains) {
  const auto equals = argument.find('=');
  if (equals == std::string::npos || equals == 0 || equals + 1 == argument.size())
    throw ConfigError(fmt::format("--tokens {}: write NAME=FILE", argument));
  const auto name = argument.substr(0, equals), file = argument.substr(equals + 1);
  for (auto& domain : domains)
    if (domain.name == name) return domain.files.push_back(file);
  domains.push_back({name, {file}});
}

AnalysisOptions options_of(const Arguments& arguments) {
  auto options = arguments.options;
  for (const auto& tokens : arguments.tokens) add_tokens(tokens, options.domains);
  options.layout.compute_dtype = arguments.dtype == "bfloat16"  ? ComputeDtype::bfloat16
                                 : arguments.dtype == "float64" ? ComputeDtype::float64
                                                                : ComputeDtype::float32;
  options.layout.device = arguments.device == "cuda" ? DeviceKind::cuda : DeviceKind::cpu;
  if (!arguments.token_dtype.empty())
    options.token_dtype = arguments.token_dtype == "uint32" ? TokenDtype::uint32 : TokenDtype::uint16;
  if (arguments.ignore_unknown) options.unknown_keys = UnknownKeys::ignored;
  return options;
}

/// FILE.safetensors, or a file in FOLDER. Throws ConfigError where it is there already, or its folder is not.
std::string out_file(const std::string& out) {
  namespace fs = std::filesystem;
  const bool is_file = fs::path(out).extension() == ".safetensors";
  const auto file = is_file ? fs::path(out) : fs::path(out) / "routing.safetensors";
  std::error_code failed;
  if (!is_file) fs::create_directories(file.parent_path(), failed);
  const auto folder = file.parent_path().empty() ? fs::path(".") : file.parent_path();
  if (!fs::is_directory(folder)) throw ConfigError(fmt::format("--out {}: {} is no folder", out, folder.string()));
  if (fs::exists(file)) throw ConfigError(fmt::format("--out {}: {} exists already", out, file.string()));
  return file.string();
}

ExitCode analyze(const Arguments& arguments, Communicator& world) {
  std::string out;
  agree(world, [&] {
    if (world.rank() == 0) out = out_file(arguments.out);
  });
  const auto options = options_of(arguments);
  ResolvedRun run = [&] {
    auto saved = open_model(options.models.back(), options.unknown_keys);
    saved.config.run.threads = arguments.threads;
    return forward_run(saved, options.layout, world.size());
  }();
  prepare_process_for(run, /*other_threads=*/0);
  const auto connected = connect_devices(run, world);
  const auto analysis = analyze_routing(options, *connected);
  agree(world, [&] {
    if (world.rank() == 0) write_arrays(out, analysis.arrays, analysis.metadata);
  });
  if (world.rank() == 0) {
    std::fputs(analysis.table.c_str(), stdout);
    fmt::print("{}: {} arrays\n", out, analysis.arrays.size());
  }
  return ExitCode::ok;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  Arguments arguments;
  auto& options = arguments.options;
  CLI::App app{
      "Counts what a model's routers choose, over token files of several domains, and how that changes between "
      "checkpoints (docs/analysis.md)."};
  app.add_option("checkpoints", options.models,
                 "step folders, run folders or Hugging Face folders in the order of training; the last one is what "
                 "others are compared with")
      ->required();
  app.add_option("--tokens", arguments.tokens, "NAME=FILE: a token file of a domain; several of a name are one domain")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--length", options.length, "tokens of a sequence; as the model was trained if not given")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 24));
  app.add_option("--sequences", options.sequences, "sequences of each domain; all if not given")
      ->check(CLI::PositiveNumber);
  app.add_option("--statistics", options.statistics,
                 fmt::format("of {}; all if not given, drops only with a capacity", fmt::join(statistic_names(), ", ")))
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--layers", options.table_layers,
                 "layers with counts by id, counted among those with experts; first, middle and last if not given")
      ->delimiter(',')
      ->allow_extra_args(false);
  app.add_option("--min-count", options.min_count, "tokens of an id whose distribution over experts is looked at")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--capacity", options.capacity, "capacity factor of drops; the model's own if not given")
      ->check(CLI::PositiveNumber);
  app.add_option("--record", options.record, "routing record to write: experts and gates of each token and layer");
  app.add_option("--replay", options.replay,
                 "routing record whose experts the layers take in place of their own choice");
  app.add_option("--out", arguments.out, "FILE.safetensors, or a folder for routing.safetensors")->required();
  app.add_option("--dtype", arguments.dtype, "of the computation")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}))
      ->capture_default_str();
  app.add_option("--device", arguments.device, "where it computes")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--token-dtype", arguments.token_dtype, "of the token files; as in training if not given")
      ->check(CLI::IsMember({"uint16", "uint32"}));
  app.add_option("--expert-parallel", options.layout.expert, "ranks that share the experts of a layer")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--micro-batch", options.layout.micro_batch, "sequences that a rank computes at once")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--threads", arguments.threads, "CPU threads of a rank; 0: OMP_NUM_THREADS, else cores / ranks")
      ->check(CLI::NonNegativeNumber);
  app.add_flag("--ignore-unknown", arguments.ignore_unknown, kIgnoreUnknownHelp);
  app.set_version_flag("--version", fmt::format("olmoe-analyze {} ({})", kVersion, kGitCommit));
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  return run_launched([&](Communicator& world, const std::string&) { return analyze(arguments, world); });
}
