#include "trainer/config.h"

#include <fmt/ranges.h>

#include <filesystem>
#include <limits>

#include "trainer/optimizer_limits.h"

namespace olmoe {

namespace {

/// Why the fused kernels cannot compute this run's experts. Whether its GPUs have them is seen on the GPUs.
std::vector<std::string> refuse_fused_experts(const Config& config) {
  std::vector<std::string> problems;
  auto refuse = [&](bool bad, std::string why) {
    if (bad) problems.push_back("train.expert_kernels: fused " + std::move(why) + "; use unfused");
  };
  const auto& model = config.model;
  refuse(config.train.device != DeviceKind::cuda, "needs train.device=cuda");
  refuse(config.train.compute_dtype != ComputeDtype::bfloat16, "needs train.compute_dtype=bfloat16");
  refuse(!kernels::fused_experts_fit(model.d_model, model.expert_width),
         fmt::format("needs model.d_model to be a multiple of {} and model.expert_width one of {}, not {} and {}",
                     kernels::kFusedModelWidths, kernels::kFusedExpertWidths, model.d_model, model.expert_width));
  return problems;
}

}  // namespace

std::vector<std::string> validate(const Config& config) {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  auto problems = validate(config.model, "model");
  auto require = [&](bool good, std::string problem) {
    if (!good) problems.push_back(std::move(problem));
  };
  auto at_least = [&](const char* key, int64_t value, int64_t least) {
    require(value >= least && value <= kLargest,
            fmt::format("{}: {} must be between {} and {}", key, value, least, kLargest));
  };
  at_least("train.steps", config.train.steps, 1);
  at_least("train.micro_batch_size", config.train.micro_batch_size, 1);
  at_least("train.global_batch_size", config.train.global_batch_size, 1);
  at_least("data.sequence_length", config.data.sequence_length, 2);
  at_least("data.prefetch", config.data.prefetch, 1);
  at_least("run.threads", config.run.threads, 0);
  at_least("run.hang_timeout_s", config.run.hang_timeout_s, 0);
  require(config.run.seed >= 0, fmt::format("run.seed: {} must not be negative", config.run.seed));
  at_least("checkpoint.every_steps", config.checkpoint.every_steps, 0);
  at_least("checkpoint.keep", config.checkpoint.keep, 0);
  at_least("evaluation.every_steps", config.evaluation.every_steps, 0);
  at_least("evaluation.max_sequences", config.evaluation.max_sequences, 0);
  at_least("log.every_steps", config.log.every_steps, 1);
  at_least("schedule.warmup_steps", config.schedule.warmup_steps, 0);
  at_least("schedule.decay_steps", config.schedule.decay_steps, 0);
  const double tokens = static_cast<double>(config.train.steps) * static_cast<double>(config.train.global_batch_size) *
                        static_cast<double>(config.data.sequence_length);
  require(tokens < 9e18, fmt::format("train.steps: {} steps are {} tokens, more than 63 bits count", config.train.steps,
                                     tokens));
  require(!config.run.folder.empty(), "run.folder: must not be empty");
  const bool has_files = !config.data.paths.empty();
  require(has_files != config.data.synthetic,
          "data.paths: name token files, or set data.synthetic: true, not both and not neither");
  for (auto& problem : validate(config.optimizer, config.train.compute_dtype)) problems.push_back(std::move(problem));
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  require(share(config.schedule.warmup_start), "schedule.warmup_start: must be a share in [0, 1]");
  require(share(config.schedule.final_fraction), "schedule.final_fraction: must be a share in [0, 1]");
  const auto& parallel = config.parallel;
  at_least("parallel.replicate", parallel.replicate, 1);
  at_least("parallel.shard", parallel.shard, 0);
  at_least("parallel.expert", parallel.expert, 1);
  at_least("parallel.expert_chunks", parallel.expert_chunks, 1);
  require(parallel.zero_stage >= 1 && parallel.zero_stage <= 3,
          fmt::format("parallel.zero_stage: {} must be 1, 2 or 3", parallel.zero_stage));
  const bool gpus = config.train.device == DeviceKind::cuda, over_nccl = gpus && parallel.transport == Transport::nccl;
  require(!config.train.cuda_graph || over_nccl,
          "train.cuda_graph: needs train.device=cuda and parallel.transport=nccl: nothing else records a step");
  require(!config.train.cuda_graph || parallel.expert <= 1,
          "train.cuda_graph: not with parallel.expert > 1, whose ranks wait for the counts of rows that they exchange");
  require(!config.train.cuda_graph || !config.model.capacity_factor,
          "train.cuda_graph: not with model.capacity_factor: the host asks how many assignments were kept");
  require(!parallel.registered_memory || over_nccl,
          "parallel.registered_memory: needs train.device=cuda and parallel.transport=nccl, which it is for");
  require(!config.log.host_syncs || gpus, "log.host_syncs: needs train.device=cuda: a CPU waits for no other device");
  if (config.train.expert_kernels == kernels::ExpertKernels::fused && config.model.ffn == Ffn::moe)
    for (auto& problem : refuse_fused_experts(config)) problems.push_back(std::move(problem));
  return problems;
}

namespace {

/// Lists every token file by its path, so that the resolved config needs neither the folder it came from nor `root`.
void resolve_paths(Config& config, const std::string& config_folder) {
  auto held_out = config.data;
  held_out.paths = config.evaluation.paths;
  held_out.paths_file.clear();
  config.evaluation.paths = token_paths(held_out, config_folder);
  config.data.paths = token_paths(config.data, config_folder);
  config.data.paths_file.clear();
  config.data.root.clear();
}

}  // namespace

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  auto config = read_config<Config>(path, overrides);
  resolve_paths(config, std::filesystem::path(path).parent_path());
  if (const auto problems = validate(config); !problems.empty())
    throw ConfigError(fmt::format("{}:\n  {}", path, fmt::join(problems, "\n  ")));
  return config;
}

}  // namespace olmoe
