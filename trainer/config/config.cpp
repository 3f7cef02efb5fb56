#include "trainer/config/config.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "core/reader/config_reader_yaml.h"
#include "trainer/config/config_paths.h"
#include "trainer/config/gpu_limits.h"
#include "trainer/config/lr_schedule.h"
#include "trainer/config/optimizer_limits.h"
#include "trainer/config/parameter_groups.h"

namespace olmoe {
namespace {

constexpr double kMostCounted = 4e18;

/// Why the fused kernels cannot compute this run's experts. check_gpu() checks the GPU itself.
std::vector<std::string> refuse_fused_experts(const Config& config) {
  std::vector<std::string> problems;
  auto refuse = [&](bool bad, std::string why) {
    if (bad) problems.push_back("train.expert_kernels: fused " + std::move(why) + "; use unfused");
  };
  const auto& model = config.model;
  refuse(config.train.device != DeviceKind::cuda, "needs train.device=cuda");
  refuse(config.train.compute_dtype != ComputeDtype::bfloat16, "needs train.compute_dtype=bfloat16");
  for (const int64_t width : model.expert_widths())
    refuse(!kernels::fused_experts_fit(model.expert_dim(), width),
           fmt::format("needs model.{} and model.{} to be multiples of {}, not {} and {}",
                       model.latent_dim > 0 ? "latent_dim" : "d_model",
                       model.layer_widths.empty() ? "expert_width" : "layer_widths", kernels::kFusedWidths,
                       model.expert_dim(), width));
  return problems;
}

/// Why this run cannot use its attention kernel, or attention that is not deterministic. check_gpu() checks the GPU
/// itself.
std::vector<std::string> refuse_attention(const Config& config) {
  std::vector<std::string> problems;
  const auto& train = config.train;
  const bool cudnn = train.attention_kernel == kernels::AttentionKernel::cudnn;
  auto refuse = [&](bool bad, std::string why) {
    if (bad && cudnn) problems.push_back("train.attention_kernel: cudnn " + why + "; use flash");
  };
  const bool gpus = train.device == DeviceKind::cuda, bf16 = train.compute_dtype == ComputeDtype::bfloat16;
  refuse(!gpus, "needs train.device=cuda");
  refuse(!bf16, "needs train.compute_dtype=bfloat16");
  refuse(hides_keys(config), "has no windows here (model.attention_windows)");
  refuse(config.data.document_mask != DocumentMask::none, "has no documents here (data.document_mask)");
  const int64_t head_dim = config.model.head_dim();
  refuse(!kernels::cudnn_attention_fits(head_dim),
         fmt::format("needs heads whose width (model.d_model / model.num_heads) is a multiple of 8 and at most 256, "
                     "not {}",
                     head_dim));
  const int64_t positions = config.data.sequence_length;
  const auto as_double = [](int64_t value) { return static_cast<double>(value); };
  const double scores = as_double(std::min(train.micro_batch_size, train.global_batch_size)) *
                        as_double(config.model.num_heads) * as_double(positions) * as_double(positions);
  refuse(train.deterministic_attention && 2 * scores > kMostCounted,
         fmt::format("needs a workspace of {:.3g} bytes, more than 63 bits count", 2 * scores));
  if (!train.deterministic_attention && !(gpus && bf16))
    problems.push_back(
        "train.deterministic_attention: false needs train.device=cuda and train.compute_dtype=bfloat16: "
        "all other attention gives the same bits in every run; use true");
  return problems;
}

/// Phases of train.batch_size_warmup that are not in order, and what they cannot be used with.
std::vector<std::string> refuse_batches(const TrainConfig& train) {
  std::vector<std::string> problems;
  const auto& warmup = train.batch_size_warmup;
  for (size_t i = 0; i < warmup.size(); ++i) {
    const auto key = fmt::format("train.batch_size_warmup[{}]", i);
    if (i > 0 && warmup[i].until_step <= warmup[i - 1].until_step)
      problems.push_back(fmt::format("{}.until_step: {} must be above {}, that of the phase before", key,
                                     warmup[i].until_step, warmup[i - 1].until_step));
    const int64_t next = i + 1 < warmup.size() ? warmup[i + 1].global_batch_size : train.global_batch_size;
    if (warmup[i].global_batch_size > next)
      problems.push_back(fmt::format("{}.global_batch_size: {} is above {}, that of the steps after it", key,
                                     warmup[i].global_batch_size, next));
  }
  if (train.cuda_graph && !warmup.empty())
    problems.push_back("train.cuda_graph: not with train.batch_size_warmup: the steps of a graph have one size");
  return problems;
}

/// What a routing record cannot be replayed with.
std::vector<std::string> refuse_replay(const Config& config) {
  if (config.train.replay_routing.empty()) return {};
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, const char* why) {
    if (bad) problems.push_back(fmt::format("train.replay_routing: {}", why));
  };
  refuse(!config.model.has_experts(), "a model without experts has no routing to replay");
  refuse(config.model.experts_choose(), "not with model.routing=expert_choice: a record has the experts of tokens");
  refuse(config.model.balancing_bias == ExpertBias::quantile,
         "not with model.balancing_bias=quantile, whose update takes the scores of the model's own choice");
  refuse(config.train.cuda_graph, "not with train.cuda_graph: each micro-batch has experts of its own");
  return problems;
}

/// Sizes that are in range each, but not together: what is planned from them is counted in 63 bits. Computed in double,
/// which cannot overflow here.
std::vector<std::string> refuse_sizes(const Config& config) {
  constexpr double kMostParameters = 1e15;
  const auto as_double = [](int64_t value) { return static_cast<double>(value); };
  const auto& model = config.model;
  const double d = as_double(model.d_model), layers = as_double(model.num_layers), k = as_double(model.top_k);
  const auto widest = [&](int64_t usual) {
    return as_double(model.layer_widths.empty() ? usual : std::ranges::max(model.layer_widths));
  };
  const double experts = as_double(model.num_experts), width = widest(model.expert_width);
  const bool moe = model.has_experts();
  const double dense = widest(model.dense_hidden()), shared = as_double(model.shared_hidden());
  const double hidden = std::max(dense, moe ? experts * width + shared : 0.0);
  const double parameters = layers * d * (3 * hidden + 4 * d + experts + 2 * as_double(model.latent_dim)) +
                            2 * d * as_double(model.vocab_size);
  // Upper bounds: of the values saved for a token in all layers, and of the bytes sent in a step.
  const double token_values =
      layers * (16 * d + experts + 2 * as_double(model.latent_dim) + 8 * as_double(model.choices()) +
                std::max(6 * dense, moe ? k * (4 * width + 6 * d + k) + 6 * shared : 0.0));
  const double sequences = as_double(config.train.global_batch_size);
  const double step_tokens = sequences * as_double(config.data.sequence_length);
  const double run_tokens = as_double(config.train.steps) * step_tokens;
  std::vector<std::string> problems;
  const auto refuse = [&](bool bad, std::string why) {
    if (bad) problems.push_back(std::move(why));
  };
  refuse(parameters > kMostParameters,
         fmt::format("model: {:.3g} parameters, more than {:g}", parameters, kMostParameters));
  refuse(8 * step_tokens * token_values > kMostCounted ||
             16 * sequences * std::min(parameters, kMostParameters) > kMostCounted,
         fmt::format("train.global_batch_size: {} sequences of {} tokens, with {:.3g} parameters, are more bytes than "
                     "63 bits count",
                     config.train.global_batch_size, config.data.sequence_length, parameters));
  refuse(run_tokens > kMostCounted, fmt::format("train.steps: {} steps are {:.3g} tokens, more than 63 bits count",
                                                config.train.steps, run_tokens));
  return problems;
}

}  // namespace

std::vector<std::string> validate(const Config& config) {
  auto problems = values_out_of_range(config);
  auto require = [&](bool good, std::string problem) {
    if (!good && std::find(problems.begin(), problems.end(), problem) == problems.end())
      problems.push_back(std::move(problem));
  };
  for (auto& problem : validate(config.model, "model")) require(false, std::move(problem));
  for (auto& problem : validate(config.evaluation)) require(false, std::move(problem));
  for (auto& problem : validate(config.checkpoint, config.evaluation)) require(false, std::move(problem));
  for (auto& problem : validate(config.data.skip)) require(false, std::move(problem));
  for (auto& problem : validate(config.data.instance_filter)) require(false, std::move(problem));
  for (auto& problem : validate_documents(config.data, config.model.vocab_size)) require(false, std::move(problem));
  if (problems.empty())
    for (auto& problem : refuse_batches(config.train)) require(false, std::move(problem));
  if (problems.empty())
    for (auto& problem : refuse_sizes(config)) require(false, std::move(problem));
  require(!config.run.folder.empty(), "run.folder: must not be empty");
  const bool has_files = !config.data.all_paths().empty();
  require(has_files != config.data.synthetic,
          "data.paths: name token files, or set data.synthetic: true, not both and not neither");
  const auto& train = config.train;
  require(!train.init_from.empty() || train.init_optimizer == InitOptimizer::reset,
          "train.init_optimizer: keep needs a step's folder in train.init_from");
  require(!train.init_from.empty() || train.init_progress == InitProgress::restart,
          "train.init_progress: continue needs a step's folder in train.init_from");
  for (auto& problem : validate(config.optimizer, config.train.compute_dtype)) problems.push_back(std::move(problem));
  if (values_out_of_range(config.schedule).empty())
    for (auto& problem : validate(config.schedule, config.train.steps)) problems.push_back(std::move(problem));
  const auto& parallel = config.parallel;
  const bool gpus = config.train.device == DeviceKind::cuda, over_nccl = gpus && parallel.transport == Transport::nccl;
  require(!config.train.cuda_graph || over_nccl,
          "train.cuda_graph: needs train.device=cuda and parallel.transport=nccl: nothing else can capture a step");
  require(!config.train.cuda_graph || parallel.expert <= 1,
          "train.cuda_graph: not with parallel.expert > 1, whose dispatch waits for the numbers of rows (a host sync)");
  require(
      !config.train.cuda_graph || !config.model.capacity_factor,
      "train.cuda_graph: not with model.capacity_factor: the host reads the number of kept assignments (a host sync)");
  require(!config.train.cuda_graph || !config.model.experts_choose(),
          "train.cuda_graph: not with model.routing=expert_choice, whose sort has not been captured on any GPU");
  require(!config.train.cuda_graph || config.optimizer.kind == OptimizerKind::adamw,
          "train.cuda_graph: not with optimizer.kind=muon, whose matrix products have not been captured on any GPU");
  require(!config.train.cuda_graph || config.data.document_mask == DocumentMask::none,
          "train.cuda_graph: not with data.document_mask: each micro-batch has another number of documents");
  require(!parallel.registered_memory || over_nccl,
          "parallel.registered_memory: needs train.device=cuda and parallel.transport=nccl, with which buffers are "
          "registered");
  require(evaluation_tasks(config.evaluation).empty() || !config.model.experts_choose(),
          "evaluation.tasks: not with model.routing=expert_choice: which experts a token has depends on the texts that "
          "it is evaluated with, and on later tokens");
  require(!config.log.host_syncs || gpus, "log.host_syncs: needs train.device=cuda: on a CPU there are none");
  if (config.train.expert_kernels == kernels::ExpertKernels::fused && config.model.has_experts())
    for (auto& problem : refuse_fused_experts(config)) problems.push_back(std::move(problem));
  if (problems.empty()) problems = validate_groups(config.optimizer, config.model);
  if (problems.empty()) problems = refuse_replay(config);
  if (problems.empty()) problems = refuse_attention(config);
  if (problems.empty()) problems = gpu_limits(config);
  return problems;
}

namespace {

/// A problem that begins with a key, with the place of its value appended: "... (command line)".
std::string placed(const ConfigNode& tree, const std::string& problem) {
  const auto path = problem.substr(0, problem.find_first_of(": "));
  const ConfigNode* node = &tree;
  for (size_t begin = 0; node != nullptr && begin <= path.size();) {
    const auto end = std::min(path.find('.', begin), path.size());
    node = node->kind == ConfigNode::Kind::section ? node->find(path.substr(begin, end - begin)) : nullptr;
    begin = end + 1;
  }
  return node == nullptr || node == &tree ? problem : fmt::format("{} ({})", problem, node->where);
}

/// Checks that a later start can read the resolved config from the run folder and from checkpoints.
void check_reads_back(const Config& config, const std::string& path) {
  try {
    const auto text = write_config(config);
    if (std::ssize(text) > kMaxConfigBytes)
      throw ConfigError(
          fmt::format("{} bytes, more than {}: name fewer files (data.paths)", text.size(), kMaxConfigBytes));
    const auto again = read_config_text<Config>(text, "the resolved config");
    const auto lost = differing_fields(config, again);
    ENSURE(lost.empty(), "the resolved config reads back differently: {}", fmt::join(lost, "; "));
  } catch (const ConfigError& error) {
    throw ConfigError(fmt::format("{}: what it resolves to could not be read back: {}", path, error.what()));
  }
}

}  // namespace

Config load_config(const std::string& path, const std::vector<std::string>& overrides) {
  ConfigNode tree;
  auto config = read_config<Config>(path, overrides, &tree);
  auto problems = resolve_paths(config, tree);
  if (problems.empty()) problems = validate(config);
  for (auto& problem : problems) problem = placed(tree, problem);
  if (!problems.empty()) throw ConfigError(fmt::format("{}:\n  {}", path, fmt::join(problems, "\n  ")));
  check_reads_back(config, path);
  return config;
}

}  // namespace olmoe
