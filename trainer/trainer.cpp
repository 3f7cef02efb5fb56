#include "trainer/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/files.h"
#include "core/log.h"
#include "core/process_limits.h"
#include "core/stopwatch.h"
#include "data/fingerprint.h"
#include "data/token_files.h"
#include "kernels/cuda_device.h"
#include "kernels/cuda_graph.h"
#include "model/hf_checkpoint.h"
#include "model/init.h"
#include "model/transformer.h"
#include "parallel/host_tensor.h"
#include "trainer/agreement.h"
#include "trainer/devices.h"
#include "trainer/environment.h"
#include "trainer/joined_hashes.h"
#include "trainer/layout.h"
#include "trainer/lr_schedule.h"
#include "trainer/preemption.h"
#include "trainer/run_folder.h"
#include "trainer/start_agreement.h"
#include "trainer/tensor_memory.h"
#include "trainer/weights.h"

namespace olmoe {
namespace {

at::ScalarType scalar_type(ComputeDtype dtype) {
  switch (dtype) {
    case ComputeDtype::float32: return at::kFloat;
    case ComputeDtype::bfloat16: return at::kBFloat16;
    case ComputeDtype::float64: return at::kDouble;
  }
  throw Error("unreachable compute dtype");
}

Lane::Beside beside(const Config& config) {
  return config.parallel.overlap ? Lane::Beside::yes : Lane::Beside::no;
}

MoeOptions moe_options(const Config& config) {
  return {device_of_rank(config.train.device), beside(config), config.parallel.expert_chunks,
          config.train.expert_kernels};
}

std::optional<at::ScalarType> wire_dtype(GradientWire wire) {
  return wire == GradientWire::bfloat16 ? std::optional(at::kBFloat16) : std::nullopt;
}

StageRunner::Options runner_options(const Config& config) {
  return {.compute_dtype = scalar_type(config.train.compute_dtype),
          .device = device_of_rank(config.train.device),
          .residency = config.parallel.zero_stage == 3 ? Residency::pooled : Residency::resident,
          .recompute = config.train.recompute == Recompute::full,
          .num_moe_layers = config.model.ffn == Ffn::moe ? config.model.num_layers : 0,
          .num_experts = config.model.ffn == Ffn::moe ? config.model.num_experts : 0,
          .registered_memory = config.parallel.registered_memory,
          .overlap = config.parallel.overlap,
          .grads = config.parallel.zero_stage == 1 ? Residency::resident : Residency::pooled,
          .wire_dtype = wire_dtype(config.parallel.gradient_wire),
          .keep = config.train.recompute == Recompute::selective ? Keep::least : Keep::all};
}

DataLoader::Plan make_plan(const Config& config, const Communicator& world) {
  const auto& train = config.train;
  DataLoader::Plan plan{train.global_batch_size, train.micro_batch_size, world.rank(), world.size(),
                        config.data.prefetch};
  // A graph takes all batches of a step at its start.
  if (train.cuda_graph) plan.prefetch = std::max(plan.prefetch, plan.rounds());
  return plan;
}

std::unique_ptr<kernels::Recorder> recorder_of(const TrainConfig& config) {
  return config.cuda_graph ? kernels::cuda::make_graph_recorder(device_of_rank(config.device)) : nullptr;
}

namespace fs = std::filesystem;

/// The config, after its run.folder was found to be one that can be made and written. That is looked at first, for
/// reading the token files may take long, and makes nothing: a run that is refused leaves no folder.
const Config& check_run_folder(const Config& config, Communicator& world) {
  agree(world, [&] {
    if (world.rank() != 0) return;
    check_folder_can_be_made(config.run.folder);
    RunLock::check_free(config.run.folder);
  });
  return config;
}

void make_run_folder(const std::string& folder) {
  std::error_code error;
  if (fs::create_directories(folder, error)) fsync_folder(fs::absolute(folder).parent_path());
  if (error) throw ConfigError(fmt::format("run.folder: {} cannot be made: {}", folder, error.message()));
}

/// A checkpoint that this process may not write is refused before the run trains for it.
void check_file_size(std::span<const StateTensor> state) {
  int64_t bytes = 0;
  for (const auto& tensor : state) bytes += static_cast<int64_t>(tensor.flat.nbytes());
  if (bytes > file_size_limit())
    throw ConfigError(fmt::format("a checkpoint file of this rank takes {} bytes, but this process may write {} a "
                                  "file: raise the limit (ulimit -f unlimited), or shard over more ranks",
                                  bytes, file_size_limit()));
}

}  // namespace

std::shared_ptr<const InstanceSource> make_source(const Config& config, Communicator& world) {
  const auto& data = config.data;
  const auto seed = static_cast<uint64_t>(config.run.seed);
  if (data.synthetic) return make_synthetic_source(data.sequence_length, config.model.vocab_size, seed);
  const bool full = data.verify == DataVerify::full;
  std::shared_ptr<TokenDataset> dataset;
  std::vector<std::string> hashes;
  agree(world, [&] {
    dataset = std::make_shared<TokenDataset>(data.paths, data.dtype, data.sequence_length, config.model.vocab_size);
    dataset->keep_open();
    if (data.check_ids || full) hashes = dataset->read_all(world.rank(), world.size());
  });
  const auto all_bytes = full ? join_hashes(world, hashes) : std::string();
  return make_file_source(std::move(dataset), seed, /*shuffle=*/true, all_bytes);
}

Trainer::Trainer(const Config& config, Communicator& world)
    : config_(check_run_folder(config, world)),
      mesh_(world, mesh_shape(config, world.size())),
      source_(make_source(config_, world)),
      plan_(make_plan(config_, world)),
      evaluator_(config_, world),
      checkpointer_(config_.run.folder + "/checkpoints", mesh_, config_.checkpoint.keep) {
  at::AutogradState::get_tls_state().set_multithreading_enabled(false);  // backward runs on this rank's own thread
  agree_on_data(world, config_, *source_, evaluator_);
  runner_ = std::make_unique<StageRunner>(make_stages(config_.model, mesh_, moe_options(config_)), mesh_,
                                          runner_options(config_));
  optimizer_ = std::make_unique<Optimizer>(runner_->units(), config_.optimizer);
  agree(world, [&] { check_file_size(optimizer_->state()); });
  const int64_t sequences = plan_.global_batch, targets = sequences * (config_.data.sequence_length - 1);
  device_step_.emplace(*runner_, *optimizer_, mesh_, DeviceStep::Size{plan_.rounds(), sequences, targets},
                       recorder_of(config_.train));
  start_or_resume();
  const bool writes = world.rank() == 0;
  if (writes) write_text_atomic(config_.run.folder + "/config.yaml", write_config(config_));
  metrics_ =
      std::make_unique<MetricsLog>(config_.run.folder, writes, step_, config_.train.steps, config_.log.every_steps);
  loader_ = std::make_unique<DataLoader>(source_, plan_, step_);
}

/// Before anything is written there, and after what can be refused without.
void Trainer::lock_folder(std::optional<int64_t> latest_step) {
  auto& world = mesh_.world();
  agree(world, [&] {
    if (world.rank() != 0) return;
    make_run_folder(config_.run.folder);
    lock_ = std::make_shared<RunLock>(config_.run.folder);
  });
  if (checkpointer_.latest_step() == latest_step) return;
  agree(world, [&] {
    throw CheckpointError(fmt::format("{}: another run changed the checkpoints while this one started: start it again",
                                      config_.run.folder));
  });
}

void Trainer::start_or_resume() {
  auto& world = mesh_.world();
  const auto latest = checkpointer_.latest_step();
  Manifest manifest;
  if (latest)
    agree(world, [&] {
      manifest = Manifest::read(checkpointer_.step_folder(*latest));
      check_same_run(manifest);
    });
  lock_folder(latest);
  if (!latest) {
    const auto& folder = config_.train.init_from;
    const auto seed = static_cast<uint64_t>(config_.run.seed);
    if (!folder.empty()) agree_on_weights(world, folder);
    agree(world, [&] {
      fill_weights(runner_->units(),
                   folder.empty() ? random_init(config_.model, seed) : HfWeights::source(folder, config_.model));
    });
    log::info("new run in {}, weights {}", config_.run.folder, folder.empty() ? "random" : "from " + folder);
    return;
  }
  checkpointer_.load(manifest, optimizer_->state());
  for (const auto& unit : runner_->units()) unit->invalidate();
  step_ = saved_step_ = manifest.step;
  log::info("going on from {}", checkpointer_.step_folder(step_));
}

void Trainer::check_same_run(const Manifest& manifest) const {
  const auto where = checkpointer_.step_folder(manifest.step);
  const auto before = read_config_text<Config>(manifest.config, where + "/manifest.json");
  std::vector<std::string> refused;
  for (const auto& difference : differing_fields(before, config_)) {
    const auto is = [&](std::string_view prefix) { return difference.starts_with(prefix); };
    if (is("model.") || is("run.seed") || is("train.global_batch_size") || is("data.sequence_length"))
      refused.push_back(difference);
    else
      log::info("changed since {}: {}", where, difference);
  }
  const auto tokens = compare_fingerprints(manifest.data_fingerprint, source_->fingerprint());
  if (!tokens.same) refused.push_back("the training tokens are others (files, order, sizes or contents changed)");
  if (!tokens.note.empty()) log::warn("{}", tokens.note);
  if (!refused.empty())
    throw CheckpointError(fmt::format("{} is of another run:\n  {}\nTake these values back, or name another run.folder",
                                      where, fmt::join(refused, "\n  ")));
}

ExitCode Trainer::run() {
  if (step_ >= config_.train.steps) {
    log::info("nothing to do: step {} of {} is done", step_, config_.train.steps);
    return ExitCode::ok;
  }
  const auto due = [&](int64_t every) { return every > 0 && step_ % every == 0; };
  while (step_ < config_.train.steps) {
    metrics_->write(train_step());
    const bool last = step_ == config_.train.steps;
    if (last || due(config_.evaluation.every_steps)) evaluate();
    const bool leave = leave_now();
    if (leave || due(config_.checkpoint.every_steps) || (last && config_.checkpoint.save_last)) save();
    if (leave) return ExitCode::preempted;
  }
  return ExitCode::ok;
}

StepMetrics Trainer::train_step() {
  const Stopwatch watch;
  std::optional<kernels::cuda::HostSyncCounter> host_syncs;
  if (config_.log.host_syncs) host_syncs.emplace();
  const auto traffic_before = traffic_of(mesh_);
  const double lr = learning_rate(config_.schedule, config_.optimizer.lr, config_.train.steps, step_ + 1);
  const auto read = fetch(device_step_->run([this] { return loader_->next(); }, step_ + 1, lr), mesh_.world());
  const double* const numbers = read.const_data_ptr<double>();
  const int64_t sequences = config_.train.global_batch_size, sequence_length = config_.data.sequence_length;
  const double loss = numbers[0] / static_cast<double>(sequences * (sequence_length - 1));
  if (!std::isfinite(loss) || !std::isfinite(numbers[3]))
    throw Error(fmt::format("step {}: loss {} and gradient norm {}: not finite, so nothing was updated or saved",
                            step_ + 1, loss, numbers[3]),
                ExitCode::non_finite);

  ++step_;
  auto traffic = traffic_between(traffic_before, traffic_of(mesh_));  // a graph that is replayed makes no calls
  if (mesh_.expert().size() > 1) {
    traffic["copies_sent"] = runner_->totals().copies_sent;
    traffic["copies_received"] = runner_->totals().copies_received;
  }
  return {.step = step_,
          .tokens = step_ * sequences * sequence_length,
          .loss = loss,
          .load_balancing_loss = numbers[1],
          .router_z_loss = numbers[2],
          .max_expert_load = numbers[4],
          .dropped_assignments = std::llround(numbers[5]),
          .grad_norm = numbers[3],
          .lr = lr,
          .tokens_per_s = static_cast<double>(sequences * sequence_length) / watch.elapsed_s(),
          .peak_memory_bytes = tensor_memory::peak_bytes(runner_->totals().losses_3.device()),
          .traffic = std::move(traffic),
          .host_syncs = host_syncs ? std::optional(host_syncs->count()) : std::nullopt};
}

void Trainer::evaluate() { metrics_->write(step_, evaluator_.evaluate(*runner_, mesh_.world())); }

void Trainer::save() {
  if (saved_step_ == step_) return;
  const Stopwatch watch;
  Manifest manifest;
  manifest.step = step_;
  manifest.sequences = step_ * config_.train.global_batch_size;
  manifest.tokens = manifest.sequences * config_.data.sequence_length;
  manifest.config = write_config(config_);
  manifest.data_fingerprint = source_->fingerprint();
  manifest.made_by = describe_environment(device_of_rank(config_.train.device));
  manifest.made_by["mesh"] = mesh_.describe();
  checkpointer_.save(std::move(manifest), optimizer_->state());
  saved_step_ = step_;
  log::info("saved {} in {:.2f} s", checkpointer_.step_folder(step_), watch.elapsed_s());
}

bool Trainer::leave_now() {
  auto asked = at::full({1}, preemption::requested() ? 1 : 0, runner_->totals().losses_3.options().dtype(at::kLong));
  mesh_.world().all_reduce(asked, Reduce::max);
  const bool leave = fetch(asked, mesh_.world()).item<int64_t>() != 0;
  if (leave) log::info("a signal asked this run to stop: saving step {} and leaving", step_);
  return leave;
}

}  // namespace olmoe
