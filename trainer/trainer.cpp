#include "trainer/trainer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/files/files.h"
#include "core/log.h"
#include "core/process/process_limits.h"
#include "core/stopwatch.h"
#include "data/fingerprint.h"
#include "data/token_files.h"
#include "model/transformer.h"
#include "parallel/agreement.h"
#include "parallel/collectives/host_tensor.h"
#include "parallel/joined_hashes.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/state_guard.h"
#include "trainer/config/lr_schedule.h"
#include "trainer/config/save_cadence.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/cuda_graph.h"
#include "trainer/device/tensor_memory.h"
#include "trainer/job/environment.h"
#include "trainer/job/preemption.h"
#include "trainer/job/run_folder.h"
#include "trainer/start_agreement.h"
#include "trainer/trial_pass.h"
#include "trainer/weights.h"

namespace olmoe {
namespace {

at::ScalarType scalar_type(ComputeDtype dtype) {
  switch (dtype) {
    case ComputeDtype::float32:
      return at::kFloat;
    case ComputeDtype::bfloat16:
      return at::kBFloat16;
    case ComputeDtype::float64:
      return at::kDouble;
  }
  throw Error("unreachable compute dtype");
}

Overlap overlap_of(const Config& config) { return config.parallel.overlap ? Overlap::yes : Overlap::no; }

MoeOptions moe_options(const ResolvedRun& run) {
  const auto& config = run.config;
  return {run.device, overlap_of(config), config.parallel.expert_chunks, config.train.expert_kernels};
}

std::optional<at::ScalarType> reduce_dtype(ReduceDtype dtype) {
  return dtype == ReduceDtype::bfloat16 ? std::optional(at::kBFloat16) : std::nullopt;
}

StageRunner::Options runner_options(const ResolvedRun& run) {
  const auto& config = run.config;
  return {.compute_dtype = scalar_type(config.train.compute_dtype),
          .device = run.device,
          .residency = config.parallel.zero_stage == 3 ? Residency::pooled : Residency::resident,
          .recompute = config.train.recompute == Recompute::full,
          .registered_memory = config.parallel.registered_memory,
          .overlap = config.parallel.overlap,
          .grads = config.parallel.zero_stage == 1 ? Residency::resident : Residency::pooled,
          .reduce_dtype = reduce_dtype(config.parallel.reduce_dtype),
          .save_policy = config.train.recompute == Recompute::selective ? SavePolicy::selective : SavePolicy::all};
}

DataLoader::Plan loader_plan(const ResolvedRun& run, const Communicator& world) {
  // A step takes the batches of all accumulation steps at its start.
  return {run.batches, world.rank(), std::max(run.config.data.prefetch, run.batches.accumulation_steps())};
}

std::unique_ptr<DeviceGraph> device_graph(const ResolvedRun& run) {
  return run.config.train.cuda_graph ? cuda::make_device_graph(run.device) : nullptr;
}

namespace fs = std::filesystem;

/// Returns once run.folder is known to be writable and not in use. Checked first, because reading the token files may
/// take long. Makes nothing: a run that is refused leaves no folder.
LeaseWatch check_run_folder(const std::string& folder, Communicator& world) {
  LeaseWatch watch(lease_path(folder));
  agree(world, [&] {
    if (world.rank() != 0) return;
    check_folder_can_be_made(folder);
    watch.check_free();
  });
  return watch;
}

void make_run_folder(const std::string& folder) {
  std::error_code error;
  if (fs::create_directories(folder, error)) fsync_folder(fs::absolute(folder).parent_path());
  if (error) throw ConfigError(fmt::format("run.folder: {} cannot be made: {}", folder, error.message()));
}

/// Refuses, before training, a checkpoint that is larger than a file of this process may be.
void check_file_size(std::span<const StateTensor> state) {
  const int64_t bytes = shard_bytes(state);
  if (bytes > file_size_limit())
    throw ConfigError(
        fmt::format("a checkpoint file of this rank takes {} bytes, but this process may write {} a "
                    "file: raise the limit (ulimit -f unlimited), or shard over more ranks",
                    bytes, file_size_limit()));
}

}  // namespace

std::shared_ptr<const SequenceSource> make_source(const Config& config, Communicator& world) {
  const auto& data = config.data;
  const auto seed = static_cast<uint64_t>(config.run.seed);
  if (data.synthetic) return make_synthetic_source(data.sequence_length, config.model.vocab_size, seed);
  const bool full = data.verify == DataVerify::full;
  std::shared_ptr<TokenDataset> dataset;
  std::vector<std::string> hashes;
  agree(world, [&] {
    dataset = std::make_shared<TokenDataset>(data.paths, data.dtype, data.sequence_length, config.model.vocab_size,
                                             OpenFiles::kept);
    if (data.check_ids || full) hashes = dataset->read_all(world.rank(), world.size());
  });
  if (full)
    require_alike(world, {{"token files (data.paths)", std::to_string(hashes.size())}},
                  "Every rank must read the same token files");
  const auto all_bytes = full ? join_hashes(world, hashes) : std::string();
  return make_file_source(std::move(dataset), seed, /*shuffle=*/true, all_bytes);
}

Trainer::Trainer(const ResolvedRun& run, Communicator& world)
    : watch_(check_run_folder(run.config.run.folder, world)),
      run_(run),
      mesh_(world, run_.mesh),
      source_(make_source(config_, world)),
      evaluator_(config_, world),
      checkpointer_(config_.run.folder + "/checkpoints", mesh_, config_.checkpoint.keep) {
  at::AutogradState::get_tls_state().set_multithreading_enabled(false);  // the backward runs on this rank's thread
  agree_on_data(world, config_, *source_, evaluator_);
  const auto attention =
      kernels::make_attention_method(config_.train.attention_kernel, config_.train.deterministic_attention);
  runner_ = std::make_unique<StageRunner>(make_stages(config_.model, mesh_, moe_options(run_), attention), mesh_,
                                          runner_options(run_));
  optimizer_ = std::make_unique<Optimizer>(runner_->units(), config_.optimizer);
  device_step_.emplace(*runner_, *optimizer_, mesh_, run_.batches, device_graph(run_));
  start_or_resume();
  checkpointer_.remove_interrupted();
  open_metrics();
  loader_ = std::make_unique<DataLoader>(source_, loader_plan(run_, world), step_);
}

/// Writes the resolved config, unless it is there, and opens metrics.jsonl.
void Trainer::open_metrics() {
  auto& world = mesh_.world();
  const bool writes = world.rank() == 0;
  const auto& folder = config_.run.folder;
  const auto path = folder + "/config.yaml", text = write_config(config_);
  agree(world, [&] {
    write_to_disk(folder, static_cast<int64_t>(text.size()), [&] {
      std::error_code unknown;  // writing reports what is wrong with it
      const bool there = writes && fs::is_regular_file(path, unknown) && read_text(path) == text;
      if (writes && !there) write_text_atomic(path, text);
      metrics_ = std::make_unique<MetricsLog>(folder, writes, step_, config_.train.steps, config_.log.every_steps);
    });
  });
  auto missing = at::full({1}, writes && step_ > 0 && !metrics_->has_evaluation() ? 1 : 0, at::kLong);
  world.broadcast(missing, 0);
  evaluation_missing_ = missing.item<int64_t>() != 0 && evaluation_due();
}

/// Called after all checks that need no lease, and before anything is written to the folder.
void Trainer::lease_folder(std::optional<int64_t> latest_step) {
  auto& world = mesh_.world();
  agree(world, [&] {
    if (world.rank() != 0) return;
    make_run_folder(config_.run.folder);
    lease_ = std::make_shared<RunLease>(watch_);
  });
  if (checkpointer_.latest_step() == latest_step) return;
  agree(world, [&] {
    throw CheckpointError(fmt::format("{}: another run changed the checkpoints while this one started: start it again",
                                      config_.run.folder));
  });
}

/// What a checkpoint has: weights, moments and the buffers of stages.
std::vector<StateTensor> Trainer::state() const {
  auto out = optimizer_->state();
  for (auto& buffer : runner_->buffers()) out.push_back(std::move(buffer));
  return out;
}

void Trainer::start_or_resume() {
  auto& world = mesh_.world();
  const auto latest = checkpointer_.latest_step();
  Manifest manifest;
  if (latest)
    agree(world, [&] {
      manifest = checkpointer_.read_manifest(*latest);
      check_same_run(manifest);
    });
  const bool trains = !latest || *latest < config_.train.steps;
  agree(world, [&] {
    if (trains) check_file_size(state());
  });
  if (!latest) {
    const auto& folder = config_.train.init_from;
    if (!folder.empty()) agree_on_weights(world, folder);
    agree(world, [&] { fill_weights(runner_->units(), initial_weights(config_)); });
    ensure_finite(world, state(), folder.empty() ? "initial weights (model.init_std)" : "train.init_from: " + folder,
                  "Start from weights that are finite");
    lease_folder(latest);
    log::info("new run in {}, weights {}", config_.run.folder, folder.empty() ? "random" : "from " + folder);
    return;
  }
  lease_folder(latest);
  checkpointer_.load(manifest, state());
  for (const auto& unit : runner_->units()) unit->invalidate();
  step_ = saved_step_ = manifest.step;
  log::info("resuming from {}", checkpointer_.step_folder(step_));
}

void Trainer::check_same_run(const Manifest& manifest) {
  const auto where = checkpointer_.step_folder(manifest.step);
  const auto before = read_saved_config<Config>(manifest.config, where + "/manifest.json");
  std::vector<std::string> refused;
  for (const auto& difference : differing_fields(before, config_)) {
    const auto is = [&](std::string_view prefix) { return difference.starts_with(prefix); };
    if (is("model.") || is("run.seed") || is("train.global_batch_size") || is("data.sequence_length"))
      refused.push_back(difference);
    else
      log::info("changed since {}: {}", where, difference);
  }
  const auto tokens = compare_fingerprints(manifest.data_fingerprint, source_->fingerprint());
  // A different seed or length changes the order of the same files, and is refused already.
  const bool same_order =
      before.run.seed == config_.run.seed && before.data.sequence_length == config_.data.sequence_length;
  if (!tokens.same && same_order) refused.push_back("the training tokens changed (files, order, sizes or contents)");
  if (!tokens.note.empty() && mesh_.world().rank() == 0) log::warn("{}", tokens.note);
  if (!refused.empty())
    throw CheckpointError(
        fmt::format("{} was written with a different config:\n  {}\nRestore these values, or use another run.folder",
                    where, fmt::join(refused, "\n  ")));
}

ExitCode Trainer::run() {
  using preemption::Moment;
  if (step_ >= config_.train.steps && !evaluation_missing_) {
    log::info("nothing to do: step {} of {} is done", step_, config_.train.steps);
    return ExitCode::ok;
  }
  if (evaluation_missing_ && !evaluate()) return leave();
  while (step_ < config_.train.steps) {
    preemption::enter(Moment::training);
    metrics_->write(train_step());
    const bool last = step_ == config_.train.steps, asked = leave_now();
    const bool saves = save_due(config_.checkpoint, step_) || (last && config_.checkpoint.save_last);
    if (asked || saves) save();
    // A signal may have come during the save. An evaluation checks for signals itself.
    evaluation_missing_ = evaluation_due();
    if (asked || (saves && leave_now())) return leave();
    if (evaluation_missing_ && !evaluate()) return leave();
  }
  return leave_now() ? leave() : ExitCode::ok;
}

/// Saves the step, unless it is saved. The next start resumes from it.
ExitCode Trainer::leave() {
  save();
  agree(mesh_.world(), [&] {
    if (!metrics_->problem().empty())
      throw CheckpointError(fmt::format("{}. Step {} is saved, its line of metrics is lost. {}", metrics_->problem(),
                                        step_, disk_advice(config_.run.folder, 0)));
  });
  return step_ < config_.train.steps || evaluation_missing_ ? ExitCode::preempted : ExitCode::ok;
}

StepMetrics Trainer::train_step() {
  const Stopwatch watch;
  std::optional<cuda::HostSyncCounter> host_syncs;
  if (config_.log.host_syncs) host_syncs.emplace();
  const auto traffic_before = traffic_of(mesh_);
  const double lr = learning_rate(config_.schedule, config_.optimizer.lr, config_.train.steps, step_ + 1);
  const auto totals = device_step_->run([this] { return loader_->next(); }, step_ + 1, lr).read(mesh_.world());
  if (totals.targets == 0) throw DataError(fmt::format("step {}: its batches have no target tokens", step_ + 1));
  if (!std::isfinite(totals.loss()) || !std::isfinite(totals.grad_norm))
    throw Error(fmt::format("step {}: loss {} and gradient norm {}: not finite, so nothing was updated or saved. Start "
                            "the run again with a lower optimizer.lr: it resumes from its newest checkpoint",
                            step_ + 1, totals.loss(), totals.grad_norm),
                ExitCode::non_finite);

  ++step_;
  const int64_t step_tokens = run_.batches.global_batch * config_.data.sequence_length;
  auto traffic = traffic_between(traffic_before, traffic_of(mesh_));  // a replayed graph makes no calls
  if (mesh_.expert().size() > 1) {
    traffic["copies_sent"] = runner_->token_copies().sent;
    traffic["copies_received"] = runner_->token_copies().received;
  }
  return {.step = step_,
          .tokens = step_ * step_tokens,
          .loss = totals.loss(),
          .load_balancing_loss = totals.load_balancing_loss,
          .router_z_loss = totals.router_z_loss,
          .max_expert_load = totals.max_expert_load,
          .dropped_assignments = totals.dropped_assignments,
          .grad_norm = totals.grad_norm,
          .lr = lr,
          .tokens_per_s = static_cast<double>(step_tokens) / watch.elapsed_s(),
          .peak_memory_bytes = tensor_memory::peak_bytes(run_.device),
          .traffic = std::move(traffic),
          .host_syncs = host_syncs ? std::optional(host_syncs->count()) : std::nullopt};
}

bool Trainer::evaluation_due() const {
  const auto every = config_.evaluation.every_steps;
  return !evaluator_.empty() && (step_ == config_.train.steps || (every > 0 && step_ % every == 0));
}

/// False where a signal stopped it; the next start of this run evaluates the step.
bool Trainer::evaluate() {
  preemption::enter(preemption::Moment::evaluating);
  const auto results = evaluator_.evaluate(*runner_, mesh_.world(), [this] { return leave_now(); });
  if (!results) return false;
  evaluation_missing_ = false;
  metrics_->write(step_, *results);
  return true;
}

void Trainer::save() {
  if (saved_step_ == step_) return;
  preemption::enter(preemption::Moment::saving);
  ensure_usable();
  const Stopwatch watch;
  Manifest manifest;
  manifest.step = step_;
  manifest.sequences = step_ * config_.train.global_batch_size;
  manifest.tokens = manifest.sequences * config_.data.sequence_length;
  manifest.config = write_config(config_);
  manifest.data_fingerprint = source_->fingerprint();
  manifest.made_by = describe_environment(run_.device);
  manifest.made_by["mesh"] = mesh_.describe();
  ensure_leased();
  checkpointer_.save(std::move(manifest), state());
  saved_step_ = step_;
  log::info("saved {} in {:.2f} s", checkpointer_.step_folder(step_), watch.elapsed_s());
}

/// Throws CheckpointError on all ranks where run.folder may be another run's by now.
void Trainer::ensure_leased() {
  agree(mesh_.world(), [&] {
    if (lease_) lease_->ensure_held();
  });
}

/// Finite weights may still be too large to compute with: what is saved must give a finite loss and gradient norm. They
/// are computed on the first micro-batch of each rank of the last step, whose tokens are known to be readable.
void Trainer::ensure_usable() {
  const auto [first, count] = run_.batches.sequences_of(mesh_.world().rank(), /*accumulation_step=*/0);
  const auto batch = make_batch(*source_, (step_ - 1) * run_.batches.global_batch + first, count);
  const auto read = fetch(trial_pass(*runner_, *optimizer_, mesh_, batch), mesh_.world());
  const auto* const numbers = read.const_data_ptr<double>();
  if (!std::isfinite(numbers[0]) || !std::isfinite(numbers[1]))
    throw Error(fmt::format("step {}: its weights give a loss of {} and a gradient norm of {}, so nothing was saved, "
                            "and earlier checkpoints stay. Start the run again with a lower optimizer.lr: it resumes "
                            "from the newest of them",
                            step_, numbers[0], numbers[1]),
                ExitCode::non_finite);
}

/// Whether the run must end early, agreed by all ranks: for a signal, or metrics that cannot be written. Throws
/// CheckpointError where the lease is lost.
bool Trainer::leave_now() {
  constexpr int64_t kNoMetrics = 1 << 16, kNoLease = 1 << 17;  // above any signal
  int64_t mine = metrics_->problem().empty() ? preemption::requested() : kNoMetrics;
  if (lease_ && lease_->is_lost()) mine = kNoLease;
  auto asked = at::full({1}, mine, at::TensorOptions().dtype(at::kLong).device(run_.device));
  mesh_.world().all_reduce(asked, Reduce::max);
  const auto reason = fetch(asked, mesh_.world()).item<int64_t>();
  if (reason == kNoLease) ensure_leased();
  if (!metrics_->problem().empty()) log::warn("{}: saving step {} and leaving", metrics_->problem(), step_);
  if (reason != 0 && reason != kNoMetrics)
    log::info("received {}: saving step {} and leaving", preemption::name_of(static_cast<int>(reason)), step_);
  return reason != 0;
}

}  // namespace olmoe
