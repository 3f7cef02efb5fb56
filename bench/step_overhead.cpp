// Overhead of a training step besides arithmetic: bookkeeping, planning, copies. A model of tiny widths is trained on
// thread ranks, each with one micro-batch of one sequence. Reports each rank's CPU time per step, inside collectives
// and outside. CPU time, not wall time, since there may be more ranks than cores.
//   step_overhead [--steps 200] [--rounds 5] [--ranks 1 2 4 8]
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <limits>
#include <mutex>
#include <utility>

#include "core/error.h"
#include "core/log.h"
#include "parallel/collectives/thread_communicator.h"
#include "trainer/job/environment.h"
#include "trainer/trainer.h"

namespace {

using namespace olmoe;

double thread_cpu_s() {
  timespec now{};
  ENSURE(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now) == 0, "no clock of a thread's CPU time");
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

struct CollectiveCost {
  double cpu_s = 0;
  int64_t calls = 0;
};

/// Counts and times the calls of another communicator. It and its groups are used by one thread.
class TimedCommunicator final : public Communicator {
 public:
  TimedCommunicator(std::unique_ptr<Communicator> inner, CollectiveCost& cost)
      : Communicator(inner->name(), inner->rank(), inner->size()), inner_(std::move(inner)), cost_(cost) {}
  void abort(int exit_code) override { inner_->abort(exit_code); }

 private:
  template <class Call>
  void timed(const Call& call) {
    const double begin_s = thread_cpu_s();
    call();
    cost_.cpu_s += thread_cpu_s() - begin_s;
    cost_.calls += 1;
  }
  void do_all_gather(at::Tensor& out, const at::Tensor& in) override {
    timed([&] { inner_->all_gather(out, in); });
  }
  void do_reduce_scatter(at::Tensor& out, const at::Tensor& in) override {
    timed([&] { inner_->reduce_scatter(out, in); });
  }
  void do_all_reduce(at::Tensor& inout, Reduce op) override {
    timed([&] { inner_->all_reduce(inout, op); });
  }
  void do_all_to_all(at::Tensor& out, const at::Tensor& in, const std::vector<int64_t>& recv,
                     const std::vector<int64_t>& send) override {
    timed([&] { inner_->all_to_all(out, in, recv, send); });
  }
  void do_broadcast(at::Tensor& inout, int root) override {
    timed([&] { inner_->broadcast(inout, root); });
  }
  void do_barrier() override {
    timed([&] { inner_->barrier(); });
  }
  std::unique_ptr<Communicator> do_split(int color, int key, std::string name) override {
    return std::make_unique<TimedCommunicator>(inner_->split(color, key, std::move(name)), cost_);
  }

  std::unique_ptr<Communicator> inner_;
  CollectiveCost& cost_;
};

enum class Spread { shard, expert, replicate };

/// A run with almost no arithmetic, the same amount on each rank for any number of ranks.
Config run_of(int ranks, Spread spread, int64_t steps, const std::string& folder) {
  Config config;
  config.run.folder = folder;
  config.model.vocab_size = 64;
  config.model.d_model = 16;
  config.model.num_layers = 8;
  config.model.num_heads = config.model.num_kv_heads = 1;
  config.model.num_experts = 8;
  config.model.top_k = 2;
  config.model.expert_width = 8;
  config.train.steps = steps;
  config.train.compute_dtype = ComputeDtype::float32;
  config.train.micro_batch_size = 1;
  config.train.global_batch_size = ranks;
  config.parallel.replicate = spread == Spread::replicate ? ranks : 1;
  config.parallel.expert = spread == Spread::expert ? ranks : 1;
  config.data.synthetic = true;
  config.data.sequence_length = 8;
  config.checkpoint.every_steps = 0;
  config.checkpoint.save_last = false;
  config.log.every_steps = steps;
  return config;
}

/// CPU time per rank and step, mean over ranks.
struct Cost {
  double outside_us = std::numeric_limits<double>::infinity(), inside_us = 0;
  int64_t calls = 0;
};

Cost measure(const Config& config, int ranks) {
  std::mutex mutex;
  double outside_s = 0, inside_s = 0;
  int64_t calls = 0;
  run_ranks(ranks, [&](Communicator& plain) {
    CollectiveCost collectives;
    TimedCommunicator world(plain.split(0, plain.rank(), "world"), collectives);
    Trainer trainer(resolve_run(config, world.size()), world);
    const auto at_start = collectives;
    const double begin_s = thread_cpu_s();
    ENSURE(trainer.run() == ExitCode::ok, "a run did not end well");
    const double whole_s = thread_cpu_s() - begin_s, within_s = collectives.cpu_s - at_start.cpu_s;
    const std::lock_guard lock(mutex);
    outside_s += whole_s - within_s;
    inside_s += within_s;
    calls = collectives.calls - at_start.calls;
  });
  const auto rank_steps = static_cast<double>(ranks) * static_cast<double>(config.train.steps);
  return {1e6 * outside_s / rank_steps, 1e6 * inside_s / rank_steps, calls / config.train.steps};
}

Cost least_of(int rounds, int ranks, Spread spread, int64_t steps) {
  const auto folder = std::filesystem::temp_directory_path() / fmt::format("step_overhead_{}", getpid());
  Cost least;
  for (int round = 0; round < rounds; ++round) {
    const auto cost = measure(run_of(ranks, spread, steps, folder.string()), ranks);
    std::filesystem::remove_all(folder);
    if (cost.outside_us < least.outside_us) least = cost;
  }
  return least;
}

}  // namespace

int main(int argc, char* argv[]) {
  prepare_process();
  int64_t steps = 200;
  int rounds = 5;
  std::vector<int> ranks{1, 2, 4, 8};
  CLI::App app{"CPU time of a training step outside collectives, on thread ranks"};
  app.add_option("--steps", steps, "steps of a run")->check(CLI::PositiveNumber);
  app.add_option("--rounds", rounds, "runs, of which the fastest is reported")->check(CLI::PositiveNumber);
  app.add_option("--ranks", ranks, "numbers of ranks")->check(CLI::IsMember({1, 2, 4, 8}));
  CLI11_PARSE(app, argc, argv);
  log::set_level(log::Level::warn);
  std::printf("| axis | ranks | us outside collectives | calls of collectives | us inside them |\n");
  std::printf("| --- | ---: | ---: | ---: | ---: |\n");
  const std::vector<std::pair<const char*, Spread>> spreads{
      {"shard", Spread::shard}, {"replicate", Spread::replicate}, {"expert", Spread::expert}};
  for (const auto& [name, spread] : spreads)
    for (int count : ranks) {
      const auto cost = least_of(rounds, count, spread, steps);
      std::printf("| %s | %d | %.0f | %lld | %.0f |\n", name, count, cost.outside_us,
                  static_cast<long long>(cost.calls), cost.inside_us);
      std::fflush(stdout);
    }
}
