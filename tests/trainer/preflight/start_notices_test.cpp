// What a user reads before the first step, for a config and made-up facts.
#include "trainer/preflight/start_notices.h"

#include <filesystem>

#include "core/text.h"
#include "data/token_files.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/config/lr_schedule.h"
#include "trainer/preflight/schedule_notices.h"
#include "trainer/preflight/start_check.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

constexpr int64_t kMib = 1 << 20;

/// A run of which there is nothing to say: long, on one rank with a CPU and a disk to itself.
Config quiet_run() {
  auto config = tiny_run("unused");
  config.train.steps = 1000;
  config.train.global_batch_size = 6;
  config.schedule.warmup_steps = 10;
  return config;
}

StartState quiet_state() {
  StartState state;
  state.disk = {1 << 30, 1 << 30};
  state.cpus = {"the machine", 2};
  return state;
}

std::vector<std::string> notices_of(const Config& config, const StartState& state = quiet_state(), int ranks = 1) {
  return start_notices(config, ranks, state).notices;
}

void check_only(const std::vector<std::string>& notices, const std::string& expected) {
  REQUIRE(notices.size() == 1);
  CHECK(notices[0] == expected);
}

}  // namespace

TEST_CASE("of a run that fits there is nothing to say") {
  CHECK(notices_of(quiet_run()).empty());
  CHECK(start_notices(quiet_run(), 1, quiet_state()).facts.empty());
}

TEST_CASE("tokens of the files and of the run, and its epochs") {
  auto config = quiet_run();
  config.data.sequence_length = 4096;
  config.train.global_batch_size = 1024;
  config.train.steps = 1'239'776;
  auto state = quiet_state();
  state.tokens = TokenTotals{3, 1'300'000'000'000, 317'382'812 * int64_t{4096}, 0};
  const auto said = start_notices(config, 1, state);
  REQUIRE(said.facts.size() == 1);
  CHECK(said.facts[0] ==
        "training tokens: 3 files of 1,300,000,000,000 tokens, of which 1,299,999,997,952 are used, in 317,382,812 "
        "sequences of 4096; the run takes 5,199,997,435,904: 4.00 epochs");
  CHECK(said.notices.empty());
  config.train.steps = 1;
  CHECK_THAT(start_notices(config, 1, state).facts[0], Contains("the run takes 4,194,304: 3.2e-06 epochs"));
}

TEST_CASE("tokens that are left out, of files that are shorter than a sequence or of tails") {
  const auto config = quiet_run();
  auto state = quiet_state();
  state.tokens = TokenTotals{101, 6703, 640, 100};
  auto long_sequences = config;
  long_sequences.data.sequence_length = 64;
  check_only(notices_of(long_sequences, state),
             "data.paths: 6,063 of 6,703 tokens (90 %) are left out, since a sequence takes data.sequence_length = 64 "
             "tokens of one file; 100 of 101 files are shorter than that and not used at all: join them, or lower it");
  state.tokens = TokenTotals{1, 35, 24, 0};
  check_only(
      notices_of(config, state),
      "data.paths: 11 of 35 tokens (31 %) are left out, since a sequence takes data.sequence_length = 12 tokens of "
      "one file");
  state.tokens = TokenTotals{1, 1211, 1200, 0};
  CHECK(notices_of(config, state).empty());
  state.tokens = TokenTotals{2, 12'005, 12'000, 1};  // little, but a whole file
  CHECK(notices_of(config, state).size() == 1);
}

TEST_CASE("sizes alone tell the tokens of the files") {
  const TempFolder folder;
  auto data = tiny_run("unused").data;
  data.synthetic = false;
  data.paths = {folder.add("a.npy", token_bytes(30, 1)), folder.add("b.npy", token_bytes(11, 1))};
  const auto totals = token_totals(data);
  REQUIRE(totals);
  CHECK(totals->files == 2);
  CHECK(totals->tokens == 41);
  CHECK(totals->used_tokens == 24);
  CHECK(totals->short_files == 1);
  CHECK(TokenDataset(data.paths, data.dtype, data.sequence_length, 65'536).num_tokens() == totals->used_tokens);
  data.dtype = TokenDtype::uint32;
  CHECK(token_totals(data)->tokens == 20);
  data.paths.push_back(folder / "gone.npy");
  CHECK_FALSE(token_totals(data));
  data.synthetic = true;
  CHECK_FALSE(token_totals(data));
}

TEST_CASE("files that are named twice, and held-out files among those that a run trains on") {
  const TempFolder folder;
  auto config = quiet_run();
  const auto a = folder.add("a.npy", token_bytes(30, 1)), b = folder.add("b.npy", token_bytes(30, 1));
  const auto link = folder / "link.npy";
  std::filesystem::create_symlink(a, link);
  config.data.paths = {a, b, b};
  config.evaluation.paths = {link};
  auto state = quiet_state();
  state.shared = find_shared_files(config);
  const auto notices = notices_of(config, state);
  REQUIRE(notices.size() == 2);
  CHECK(notices[0] ==
        fmt::format("evaluation.paths: the run trains on held-out files, so that their loss is not that of "
                    "unseen text: {} is the training file {}",
                    link, a));
  CHECK(notices[1] == fmt::format("data.paths: the run sees files twice in each epoch: {} is listed twice", b));
  config.data.paths = {a, b};
  config.evaluation.paths = {b};
  state.shared = find_shared_files(config);
  check_only(notices_of(config, state),
             fmt::format("evaluation.paths: the run trains on held-out files, so that their loss is not that of "
                         "unseen text: {} is a training file too",
                         b));
  config.data.paths = {b};
  config.evaluation.paths = {a, link};
  state.shared = find_shared_files(config);
  check_only(notices_of(config, state), fmt::format("evaluation.paths: files are there twice: {} is {}", link, a));
}

TEST_CASE("a warm-up that is longer than the run, or most of it") {
  auto config = quiet_run();
  config.schedule.warmup_steps = 2500;
  config.train.steps = 20;
  check_only(notices_of(config),
             "schedule.warmup_steps: 2500 (the default) is longer than the run of train.steps = 20: the learning rate "
             "ends at 0.0001072 and never reaches its peak, optimizer.lr = 0.001");
  config.train.steps = 4999;
  check_only(notices_of(config),
             "schedule.warmup_steps: 2500 (the default) is more than half of the run of train.steps = 4999");
  config.train.steps = 5000;
  CHECK(notices_of(config).empty());
  config.schedule.warmup_steps = 5001;
  CHECK_THAT(notices_of(config).at(0), Catch::StartsWith("schedule.warmup_steps: 5001 is longer"));
}

TEST_CASE("a warm-up of the clipping norm that takes the whole run, and what the instance filter masks") {
  auto config = quiet_run();
  config.optimizer.clip_warmup_factor = 5;
  config.optimizer.clip_warmup_steps = 999;
  config.data.instance_filter = {3, 1, 4};
  CHECK(notices_of(config).empty());
  CHECK(start_notices(config, 1, quiet_state()).facts ==
        std::vector<std::string>{"data.instance_filter: sequences are masked in which 3 equal blocks of 1 to 4 ids, or "
                                 "more, follow each other; metrics.jsonl counts them (masked_sequences)"});
  config.optimizer.clip_warmup_steps = 1000;
  check_only(notices_of(config),
             "optimizer.clip_warmup_steps: 1000 of a run of train.steps = 1000: no step has the clipping norm 1 of "
             "optimizer.clip_norm, all have 5");
}

TEST_CASE("a decay that ends before the warm-up, or after the run") {
  auto config = quiet_run();
  config.schedule.warmup_steps = 5;
  config.schedule.decay_steps = 3;
  check_only(
      notices_of(config),
      "schedule.decay_steps: 3 is not after the warm-up, schedule.warmup_steps = 5: the learning rate falls from "
      "0.00082 to its floor, 0.0001, at step 5");
  config.schedule.kind = ScheduleKind::constant;
  CHECK(notices_of(config).empty());
  config.schedule.kind = ScheduleKind::linear;
  config.schedule.decay_steps = 2000;
  check_only(
      notices_of(config),
      "schedule.decay_steps: 2000 is after the last step, train.steps = 1000: the learning rate ends at 0.0005511, "
      "not at its floor, 0.0001");
  config.schedule = {.warmup_steps = 1};
  config.train.steps = 1;
  CHECK_THAT(notices_of(config).back(), Contains("the learning rate is at its floor, 0.0001, at step 1"));
}

TEST_CASE("a rate that jumps at a resume, with both values and the reason") {
  auto before = quiet_run();
  before.train.steps = 20;
  before.schedule.warmup_steps = 2;
  auto config = before;
  config.train.steps = 40;
  const double was = learning_rate(before.schedule, before.optimizer.lr, 20, 20);
  const double now = learning_rate(config.schedule, config.optimizer.lr, 40, 21);
  CHECK(now > 5 * was);
  auto state = quiet_state();
  state.saved = {20, 1, before};
  check_only(
      notices_of(config, state),
      fmt::format("the learning rate jumps from {:.4g} at step 20 to {:.4g} at step 21, since the checkpoint is of "
                  "another schedule (train.steps: 20 -> 40)",
                  was, now));

  SECTION("not where the schedule does not depend on it") {
    before.schedule.decay_steps = config.schedule.decay_steps = 20;
    state.saved.config = before;
    CHECK(notices_of(config, state).empty());
  }
  SECTION("nor where the schedule itself makes the step") {
    before.schedule.warmup_steps = config.schedule.warmup_steps = 19;
    before.train.steps = config.train.steps = 30;
    before.schedule.warmup_start = config.schedule.warmup_start = 0;
    state.saved = {1, 1, before};  // from 1/19 of the peak to 2/19
    CHECK(changed_schedule_notices(before, config, 1).empty());
  }
  SECTION("another peak") {
    config = before;
    config.train.steps = before.train.steps = 100;
    config.optimizer.lr = 3e-3;
    state.saved = {20, 1, before};
    check_only(
        notices_of(config, state),
        fmt::format("the learning rate jumps from {:.4g} at step 20 to {:.4g} at step 21, since the checkpoint is "
                    "of another schedule (optimizer.lr: 0.001 -> 0.003)",
                    learning_rate(before.schedule, 1e-3, 100, 20), learning_rate(config.schedule, 3e-3, 100, 21)));
  }
  SECTION("nothing of a run that is done") {
    state.saved.step = 40;
    CHECK(notices_of(config, state).empty());
  }
}

TEST_CASE("what checkpoints take, and where that is more than is free") {
  auto config = quiet_run();
  config.checkpoint = {.every_steps = 300, .keep = 1, .save_last = true};
  auto state = quiet_state();
  const int64_t each = plan_saves(config, 0, 0).each_bytes;
  state.disk = {100 * kMib, 2 * each};
  auto said = start_notices(config, 1, state);
  REQUIRE(said.facts.size() == 1);
  CHECK_THAT(said.facts[0], Contains("checkpoints: ") && Contains("each, at most 2 at one time, ") &&
                                Contains(" in all, ") && Contains("of 100.0 MiB are free on the disk"));
  CHECK(said.notices.empty());
  state.disk.free_bytes = 2 * each - 1;
  CHECK_THAT(notices_of(config, state).at(0),
             Catch::StartsWith("run.folder: ") && Contains("will not fit into the") && Contains("(2 of ") &&
                 Contains("an old one is removed after the next is complete") && Contains("checkpoint.keep = 1"));
  config.checkpoint.keep_every_steps = 600;
  CHECK_THAT(notices_of(config, state).at(0), Contains("checkpoint.keep = 1 or keep_every_steps = 600"));
  config.checkpoint.keep_every_steps = 0;
  state.saved.checkpoints = 1;  // of which one takes its place already
  CHECK(notices_of(config, state).empty());

  SECTION("more than the whole disk is refused") {
    const auto refuse = [&] { check_disk(config, plan_saves(config, 0, 0), state.disk); };
    state.disk = {each, 0};
    CHECK_NOTHROW(refuse());
    state.disk = {each - 1, each - 1};
    CHECK_THROWS_AS(refuse(), ConfigError);
    CHECK_THROWS_WITH(refuse(), Catch::StartsWith("run.folder: a checkpoint takes"));
    config.checkpoint = {.every_steps = 0, .keep = 1, .save_last = false};
    CHECK_NOTHROW(refuse());
    CHECK(notices_of(config, state).empty());
  }
}

TEST_CASE("how many checkpoints there are at one time") {
  auto config = quiet_run();
  const auto most = [&](CheckpointConfig checkpoint, int64_t step, int64_t present) {
    config.checkpoint = checkpoint;
    return plan_saves(config, step, present).most;
  };
  CHECK(most({300, 0, true}, 0, 0) == 4);  // 300, 600, 900, 1000
  CHECK(most({300, 0, false}, 0, 0) == 3);
  CHECK(most({250, 0, true}, 0, 0) == 4);  // the last is one of them
  CHECK(most({0, 0, true}, 0, 0) == 1);
  CHECK(most({0, 0, false}, 0, 0) == 0);
  CHECK(most({300, 0, true}, 600, 2) == 4);
  CHECK(most({300, 2, true}, 0, 0) == 3);
  CHECK(most({300, 5, true}, 0, 0) == 4);
  CHECK(most({300, 1, true}, 900, 5) == 6);  // kept 5 before: they go after the first save
  CHECK(most({300, 1, true}, 1000, 5) == 5);
  CHECK(most({300, 0, true, {{100, 20}, {200, 50}}}, 0, 0) == 5 + 2 + 4);
  CHECK(most({10, 1, true}, 0, 0) == 2);
  CHECK(most({.every_steps = 10, .keep = 1, .keep_every_steps = 200}, 0, 0) == 2 + 5);
  CHECK(most({.every_steps = 10, .keep = 1, .keep_every_steps = 25}, 500, 0) == 2 + 10);  // saved multiples: of 50
  CHECK(most({.every_steps = 10, .keep = 1, .keep_best = 3}, 0, 0) == 2 + 3);
}

TEST_CASE("a checkpoint takes what is planned for it") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.model.vocab_size = 8000;  // so that headers are small in comparison
  config.checkpoint.save_last = true;
  run_single(config);
  int64_t bytes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder / "run/checkpoints"))
    if (entry.is_regular_file()) bytes += static_cast<int64_t>(entry.file_size());
  const auto planned = plan_saves(config, 0, 0).each_bytes;
  CHECK(bytes >= planned);
  CHECK(static_cast<double>(bytes) < 1.01 * static_cast<double>(planned));
}

TEST_CASE("idle ranks, and threads that share too few CPUs") {
  auto config = quiet_run();
  config.train.micro_batch_size = 1;
  config.train.global_batch_size = 3;
  check_only(notices_of(config, quiet_state(), 8),
             "train.global_batch_size: 3 sequences in micro-batches of 1 (train.micro_batch_size) are work for 3 of 8 "
             "ranks: 5 idle");
  config.train.global_batch_size = 9;
  check_only(notices_of(config, quiet_state(), 8),
             "train.global_batch_size: 9 sequences in micro-batches of 1 (train.micro_batch_size) are work for 1 of 8 "
             "ranks in the last of 2 accumulation steps: 7 idle");
  config.train.global_batch_size = 16;
  CHECK(notices_of(config, quiet_state(), 8).empty());

  auto state = quiet_state();
  state.ranks_here = 2;
  state.threads = 4;
  state.cpus = {"cpu.max of /job_7", 1.5};
  check_only(
      notices_of(config, state, 8),
      "run.threads: 2 ranks with 4 threads each share 1.5 CPUs (cpu.max of /job_7) and will wait for each other");
  state = quiet_state();
  state.cpus = {"cpu.max of /job_7", 0.5};  // no process has less than one thread
  CHECK(notices_of(config, state, 8).empty());
}

TEST_CASE("a notice for attention that is not deterministic") {
  auto config = quiet_run();
  config.train.deterministic_attention = false;
  check_only(notices_of(config),
             "train.deterministic_attention: false, so two runs of one config may differ: attention sums its "
             "gradients in any order, and their last bits are not the same each time");
}

TEST_CASE("a notice for experts that choose tokens, which looks ahead") {
  auto config = quiet_run();
  config.model.routing = RoutingMethod::expert_choice;
  check_only(
      notices_of(config),
      "model.routing: expert_choice looks ahead: which experts a token has depends on later tokens of its "
      "sequence. Losses, those of held-out sets too, are not of a causal model, and such a model cannot generate "
      "text token by token");
  config.model.ffn = Ffn::dense;
  CHECK(notices_of(config).empty());
}

TEST_CASE("where a run goes on is read from its folder") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  CHECK_FALSE(find_saved_run(config).config);
  config.checkpoint.every_steps = 2;
  config.checkpoint.save_last = true;
  run_single(config);
  const auto saved = find_saved_run(config);
  CHECK(saved.step == 3);
  CHECK(saved.checkpoints == 2);
  REQUIRE(saved.config);
  CHECK(saved.config->train.steps == 3);
  folder.add("run/checkpoints/step_000000009/manifest.json", "{");
  CHECK_THROWS_AS(find_saved_run(config), CheckpointError);
}

TEST_CASE("a start whose memory cannot fit is refused on all ranks, and makes nothing") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.model.vocab_size = 1LL << 31;
  config.model.d_model = 4096;
  std::vector<std::string> said(2);
  run_ranks(2, [&](Communicator& world) {
    try {
      check_start(resolve_run(config, world.size()), world);
    } catch (const ConfigError& error) {
      said[static_cast<size_t>(world.rank())] = error.what();
    }
  });
  for (const auto& text : said)
    CHECK_THAT(text, Contains("memory: the plan of a rank is") && Contains("this cannot fit"));
  CHECK(std::filesystem::is_empty(folder / ""));
  config = tiny_run(folder / "run");
  run_ranks(2, [&](Communicator& world) { check_start(resolve_run(config, world.size()), world); });
  CHECK(std::filesystem::is_empty(folder / ""));
}
