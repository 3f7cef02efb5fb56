#include "trainer/trainer.h"

#include <cmath>
#include <filesystem>

#include "core/files/files.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "model/transformer.h"
#include "parallel/agreement.h"
#include "parallel/collectives/host_tensor.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/state_guard.h"
#include "trainer/config/lr_schedule.h"
#include "trainer/config/save_cadence.h"
#include "trainer/device/cuda_device.h"
#include "trainer/device/tensor_memory.h"
#include "trainer/job/environment.h"
#include "trainer/job/preemption.h"
#include "trainer/job/run_folder.h"
#include "trainer/rewind.h"
#include "trainer/run_options.h"
#include "trainer/same_run.h"
#include "trainer/start_agreement.h"
#include "trainer/trial_pass.h"
#include "trainer/weights.h"

namespace olmoe {
namespace {

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

}  // namespace

Trainer::Trainer(const ResolvedRun& run, Communicator& world)
    : watch_(check_run_folder(run.config.run.folder, world)),
      run_(run),
      mesh_(world, run_.mesh),
      source_(make_source(config_, world)),
      evaluator_(config_, world),
      router_watch_(config_.model.num_moe_layers(), config_.model.num_experts, config_.log.dead_expert_steps),
      sender_(config_.run.folder, config_.checkpoint, world),
      checkpointer_(config_.run.folder + "/checkpoints", mesh_,
                    {.retention = config_.checkpoint,
                     .device = run_.device,
                     .ensure_may_commit =
                         [this] {
                           if (lease_) lease_->ensure_held();
                         },
                     .committed = [this](int64_t step) { sender_.add(step); },
                     .is_in_use = [this](int64_t step) { return sender_.in_use(step); },
                     .is_leaving = [] { return preemption::requested() != 0; }}) {
  at::AutogradState::get_tls_state().set_multithreading_enabled(false);  // the backward runs on this rank's thread
  agree_on_data(world, config_, *source_, evaluator_);
  const auto attention =
      kernels::make_attention_method(config_.train.attention_kernel, config_.train.deterministic_attention);
  runner_ = std::make_unique<StageRunner>(make_stages(config_.model, mesh_, moe_options(run_), attention), mesh_,
                                          runner_options(run_));
  optimizer_ = std::make_unique<Optimizer>(runner_->units(), config_.optimizer);
  device_step_.emplace(*runner_, *optimizer_, mesh_, run_.batches, device_graph(run_), config_.log.routing_every_steps);
  start_or_resume();
  saver_.emplace(checkpointer_, config_.checkpoint,
                 CheckpointSaver::Source{.manifest = [this](int64_t step) { return this->manifest(step); },
                                         .state = [this] { return state(); },
                                         .ensure_usable = [this](int64_t step) { ensure_usable(step); }},
                 resumed_ ? step_ : -1);
  checkpointer_.remove_interrupted();
  sender_.start(step_);
  open_metrics();
  loader_ = std::make_unique<DataLoader>(source_, loader_plan(run_, world), step_);
}

/// Writes the resolved config, unless it is there, opens metrics.jsonl and tells retention what it holds.
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
      metrics_ = std::make_unique<MetricsLog>(folder, writes, step_, config_.train.steps, config_.log.every_steps,
                                              /*new_run=*/!resumed_);
      if (const auto& key = config_.checkpoint.keep_best_metric; writes && !key.empty())
        for (const auto& [step_before, value] : metric_by_step(folder + "/metrics.jsonl", key))
          checkpointer_.note_metric(step_before, value);
    });
  });
  auto missing = at::full({1}, writes && step_ > 0 && !metrics_->has_evaluation() ? 1 : 0, at::kLong);
  world.broadcast(missing, 0);
  evaluation_missing_ = missing.item<int64_t>() != 0 && evaluation_due();
}

/// Called after all checks that need no lease, and before anything is written to the folder. Does nothing once the
/// folder is leased.
void Trainer::lease_folder(std::optional<int64_t> latest_step) {
  if (leased_) return;
  auto& world = mesh_.world();
  agree(world, [&] {
    if (world.rank() != 0) return;
    make_run_folder(config_.run.folder);
    lease_ = std::make_shared<RunLease>(watch_, [this] { checkpointer_.remove_interrupted(); });
  });
  leased_ = true;
  if (checkpointer_.latest_step() == latest_step) return;
  agree(world, [&] {
    throw CheckpointError(fmt::format("{}: another run changed the checkpoints while this one started: start it again",
                                      config_.run.folder));
  });
}

std::vector<StateTensor> Trainer::state() const { return saved_state(*optimizer_, *runner_); }

void Trainer::start_or_resume() {
  const auto newest = checkpointer_.latest_step();
  if (const auto step = resume_step(config_.checkpoint); step && goes_back(checkpointer_, *step, run_, mesh_.world()))
    return go_back(*step, newest.value());
  if (!newest) return start_new();
  for (auto step = *newest;; step = checkpointer_.latest_step().value()) {
    try {
      return resume(step, step);
    } catch (const DamagedCheckpoint& error) {  // thrown on all ranks
      if (config_.checkpoint.on_damage == OnDamage::stop)
        throw CheckpointError(fmt::format("{}. {}", error.what(), checkpointer_.advice_for(step)));
      lease_folder(step);
      checkpointer_.set_aside(step, SetAside::damaged, error.what());
    }
  }
}

/// checkpoint.resume: later checkpoints are set aside only once this one is loaded.
void Trainer::go_back(int64_t step, int64_t newest) {
  try {
    resume(step, newest);
  } catch (const DamagedCheckpoint& error) {  // thrown on all ranks
    throw CheckpointError(
        fmt::format("{}. Restore it, or name another step than checkpoint.resume={}: nothing was "
                    "changed",
                    error.what(), step));
  }
  abandon_later(checkpointer_, step, config_.run.folder, mesh_.world());
}

void Trainer::start_new() {
  auto& world = mesh_.world();
  const auto& folder = config_.train.init_from;
  agree(world, [&] { check_file_size(state()); });
  if (!folder.empty()) agree_on_weights(world, folder);
  agree(world, [&] {
    fill_weights(runner_->units(), initial_weights(config_, run_.unknown_keys));
    fill_buffers(runner_->buffers(), folder);
    if (config_.train.init_optimizer == InitOptimizer::keep) fill_moments(state(), folder);
  });
  take_over_progress();
  ensure_finite(world, state(), folder.empty() ? "initial weights (model.init_std)" : "train.init_from: " + folder,
                "Start from weights that are finite");
  lease_folder({});
  log::info("new run in {}, weights {}", config_.run.folder, folder.empty() ? "random" : "from " + folder);
}

/// What a new run goes on with, of the run whose checkpoint it starts from (train.init_optimizer, train.init_progress).
void Trainer::take_over_progress() {
  const auto& train = config_.train;
  const bool keeps = train.init_optimizer == InitOptimizer::keep;
  const bool continues = train.init_progress == InitProgress::continued;
  if (!keeps && !continues) return;
  Manifest source;
  agree(mesh_.world(), [&] {
    source = Manifest::read(train.init_from);
    if (continues) check_same_run(source, train.init_from, config_, *source_, mesh_.world(), run_.unknown_keys);
  });
  if (continues) step_ = source.step;
  if (keeps) earlier_optimizer_steps_ = source.optimizer_steps - step_;
}

/// Throws DamagedCheckpoint where the checkpoint of `step` is damaged, also when it is read a second time.
void Trainer::resume(int64_t step, int64_t newest) {
  auto& world = mesh_.world();
  const auto attempt = [&] {
    const auto manifest = checkpointer_.read_manifest(step);
    agree(world, [&] {
      check_same_run(manifest, checkpointer_.step_folder(step), config_, *source_, world, run_.unknown_keys);
      earlier_optimizer_steps_ = manifest.optimizer_steps - manifest.step;
      if (step < config_.train.steps) check_file_size(state());
    });
    lease_folder(newest);
    checkpointer_.load(manifest, state());
    router_watch_.set_idle(manifest.idle_experts);
  };
  try {
    attempt();
  } catch (const DamagedCheckpoint& error) {
    if (world.rank() == 0) log::warn("{}: reading it again", error.what());
    checkpointer_.forget_cached(step);
    attempt();
  }
  for (const auto& unit : runner_->units()) unit->invalidate();
  step_ = step;
  resumed_ = true;
  log::info("resuming from {}", checkpointer_.step_folder(step_));
}

ExitCode Trainer::run() {
  using preemption::Moment;
  if (step_ >= config_.train.steps && !evaluation_missing_) {
    log::info("nothing to do: step {} of {} is done", step_, config_.train.steps);
    return finish_sending();
  }
  if (evaluation_missing_ && !evaluate()) return leave();
  while (step_ < config_.train.steps) {
    preemption::enter(Moment::training);
    metrics_->write(train_step());
    saver_->after_step();
    const bool last = step_ == config_.train.steps, asked = leave_now();
    const bool due = save_due(config_.checkpoint, step_);
    if (asked || (last && (due || config_.checkpoint.save_last)))
      saver_->save_now(step_);
    else if (due)
      saver_->begin(step_);
    // A signal may have come during the save. An evaluation checks for signals itself.
    evaluation_missing_ = evaluation_due();
    if (asked || ((due || last) && leave_now())) return leave();
    if (evaluation_missing_ && !evaluate()) return leave();
  }
  saver_->finish();
  return leave_now() ? leave() : end(ExitCode::ok);
}

/// Saves the step, unless it is saved. The next start resumes from it.
ExitCode Trainer::leave() {
  saver_->save_now(step_);
  return end(step_ < config_.train.steps || evaluation_missing_ ? ExitCode::preempted : ExitCode::ok);
}

/// Throws CheckpointError where the disk is why the run ends, or has no room for the last lines of metrics.
ExitCode Trainer::end(ExitCode code) {
  const auto sent = finish_sending();  // it may make room
  agree(mesh_.world(), [&] {
    auto problem = metrics_->close();
    if (problem.empty()) problem = disk_is_low();
    if (!problem.empty())
      throw CheckpointError(fmt::format("{}. Step {} is {}. {}", problem, step_,
                                        saver_->saved_step() == step_ ? "saved" : "not saved",
                                        disk_advice(config_.run.folder, 0)));
  });
  return code == ExitCode::ok ? sent : code;
}

/// What is left to send is waited for, unless a signal has come or comes.
ExitCode Trainer::finish_sending() {
  if (!sender_.sends()) return ExitCode::ok;
  preemption::enter(preemption::Moment::sending);
  const bool waited = sender_.finish([this] { return preemption::requested() != 0 || (lease_ && lease_->is_lost()); });
  ensure_leased();
  if (lease_) checkpointer_.remove_old(step_);
  return waited ? ExitCode::ok : ExitCode::preempted;
}

std::string Trainer::disk_is_low() {
  const double min_free = config_.checkpoint.min_free;
  return min_free == 0 || mesh_.world().rank() != 0 ? std::string() : low_disk(config_.run.folder, min_free);
}

StepMetrics Trainer::train_step() {
  const Stopwatch watch;
  std::optional<cuda::HostSyncCounter> host_syncs;
  if (config_.log.host_syncs) host_syncs.emplace();
  const auto traffic_before = traffic_of(mesh_);
  const double lr = learning_rate(config_, step_ + 1);
  device_step_->set_batches(config_.train.batches(mesh_.world().size(), step_ + 1));
  const auto totals = device_step_
                          ->run([this] { return next_batch(); }, {step_ + 1, earlier_optimizer_steps_}, lr,
                                [this] { saver_->before_update(); })
                          .read(mesh_.world());
  if (totals.targets == 0) throw DataError(fmt::format("step {}: its batches have no target tokens", step_ + 1));
  if (!std::isfinite(totals.loss()) || !std::isfinite(totals.grad_norm)) {
    saver_->settle();
    throw Error(fmt::format("step {}: loss {} and gradient norm {}: not finite, so nothing was updated or saved. Start "
                            "the run again with a lower optimizer.lr: it resumes from its newest checkpoint",
                            step_ + 1, totals.loss(), totals.grad_norm),
                ExitCode::non_finite);
  }
  ++step_;
  const auto sizes = config_.train.batch_sizes();
  auto traffic = traffic_between(traffic_before, traffic_of(mesh_));  // a replayed graph makes no calls
  if (mesh_.expert().size() > 1) {
    traffic["copies_sent"] = runner_->token_copies().sent;
    traffic["copies_received"] = runner_->token_copies().received;
  }
  return {.step = step_,
          .tokens = sizes.until(step_) * config_.data.sequence_length,
          .loss = totals.loss(),
          .load_balancing_loss = totals.load_balancing_loss,
          .router_z_loss = totals.router_z_loss,
          .router_entropy = totals.router_entropy,
          .router = router_watch_.after_step(totals.counts_LE, totals.load_balancing_loss),
          .dropped_assignments = totals.dropped_assignments,
          .grad_norm = totals.grad_norm,
          .lr = lr,
          .tokens_per_s = static_cast<double>(sizes.of_step(step_) * config_.data.sequence_length) / watch.elapsed_s(),
          .peak_memory_bytes = tensor_memory::peak_bytes(run_.device),
          .traffic = std::move(traffic),
          .host_syncs = host_syncs ? std::optional(host_syncs->count()) : std::nullopt,
          .rank_counts = device_step_->counts_by_rank(step_),
          .output_z_loss = totals.output_z_loss(),
          .masked_sequences = totals.masked_sequences,
          .checkpoint_failures = saver_->failures()};
}

bool Trainer::evaluation_due() const {
  const auto every = config_.evaluation.every_steps;
  return evaluator_.has_tasks(is_last()) && (is_last() || (every > 0 && step_ % every == 0));
}

/// False where a signal stopped it; the next start of this run evaluates the step.
bool Trainer::evaluate() {
  preemption::enter(preemption::Moment::evaluating);
  const auto results = evaluator_.evaluate(*runner_, mesh_.world(), is_last(), [this] { return leave_now(); });
  if (!results) return false;
  evaluation_missing_ = false;
  metrics_->write(step_, *results);
  for (const auto& result : *results)
    if (metric_key(result) == config_.checkpoint.keep_best_metric) checkpointer_.note_metric(step_, result.value);
  return true;
}

/// Of a checkpoint of a finished step, without its files.
Manifest Trainer::manifest(int64_t step) const {
  Manifest manifest;
  manifest.step = step;
  manifest.sequences = config_.train.batch_sizes().until(step);
  manifest.tokens = manifest.sequences * config_.data.sequence_length;
  manifest.optimizer_steps = earlier_optimizer_steps_ + step;
  manifest.config = write_config(config_);
  manifest.idle_experts = router_watch_.idle();
  manifest.data_fingerprint = source_->fingerprint();
  manifest.made_by = describe_environment(run_.device);
  manifest.made_by["mesh"] = mesh_.describe();
  return manifest;
}

/// Throws CheckpointError on all ranks where run.folder may be another run's by now.
void Trainer::ensure_leased() {
  agree(mesh_.world(), [&] {
    if (lease_) lease_->ensure_held();
  });
}

/// Finite weights may still be too large to compute with: what is saved must give a finite loss and gradient norm. They
/// are computed on the first micro-batch of each rank of the last step, whose tokens are known to be readable.
void Trainer::ensure_usable(int64_t step) {
  ENSURE(step == step_, "the weights are those of step {}, not {}", step_, step);
  const auto sequences =
      config_.train.batches(mesh_.world().size(), step_).sequences_of(mesh_.world().rank(), /*accumulation_step=*/0);
  Batch batch;
  agree(mesh_.world(), [&] {
    batch = make_batch(*source_, config_.train.batch_sizes().until(step_ - 1) + sequences.first, sequences.count);
  });
  const auto read = fetch(trial_pass(*runner_, *optimizer_, mesh_, batch), mesh_.world());
  const auto* const numbers = read.const_data_ptr<double>();
  if (!std::isfinite(numbers[0]) || !std::isfinite(numbers[1]))
    throw Error(fmt::format("step {}: its weights give a loss of {} and a gradient norm of {}, so nothing was saved, "
                            "and earlier checkpoints stay. Start the run again with a lower optimizer.lr: it resumes "
                            "from the newest of them",
                            step_, numbers[0], numbers[1]),
                ExitCode::non_finite);
}

/// Whether the run must end early, agreed by all ranks: for a signal, or a disk that cannot be written to. Throws
/// CheckpointError where the lease is lost.
bool Trainer::leave_now() {
  constexpr int64_t kDisk = 1 << 16, kNoLease = 1 << 17;  // above any signal
  const auto problem = metrics_->problem().empty() ? disk_is_low() : metrics_->problem();
  int64_t mine = problem.empty() ? preemption::requested() : kDisk;
  if (lease_ && lease_->is_lost()) mine = kNoLease;
  auto asked = at::full({1}, mine, at::TensorOptions().dtype(at::kLong).device(run_.device));
  mesh_.world().all_reduce(asked, Reduce::max);
  const auto reason = fetch(asked, mesh_.world()).item<int64_t>();
  if (reason == kNoLease) ensure_leased();
  if (!problem.empty()) log::warn("{}: saving step {} and leaving", problem, step_);
  if (reason != 0 && reason != kDisk)
    log::info("received {}: saving step {} and leaving", preemption::name_of(static_cast<int>(reason)), step_);
  return reason != 0;
}

}  // namespace olmoe
