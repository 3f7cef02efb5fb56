// The verdict on made-up figures, and what is measured on thread ranks.
#include "trainer/preflight/doctor.h"

#include <cmath>
#include <filesystem>
#include <limits>

#include "support/catch.h"
#include "support/made_up_system.h"
#include "support/trainer_fixtures.h"
#include "trainer/device/device_facts.h"
#include "trainer/preflight/doctor_probes.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
using Catch::Contains;

constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();

const std::vector<Measure> kTwo{{"compute", "GFLOP/s", 0.9}, {"write", "MB/s", 0.5}};

/// Ranks on node0, node1, ... with these figures of kTwo.
std::vector<RankReport> ranks_with(const std::vector<std::vector<double>>& values) {
  std::vector<RankReport> out;
  for (const auto& value : values) out.push_back({fmt::format("node{}", out.size()), "a GPU", value, {}});
  return out;
}

}  // namespace

TEST_CASE("the median is the upper one of two, and leaves out what was not measured") {
  CHECK(median({3, 1, 2}) == 2);
  CHECK(median({1, 2}) == 2);
  CHECK(median({4, 1, 3, 2}) == 3);
  CHECK(median({kNotMeasured, 5, kNotMeasured}) == 5);
  CHECK(std::isnan(median({kNotMeasured})));
  CHECK(std::isnan(median({})));
}

TEST_CASE("equal ranks go, and so do small differences") {
  CHECK(judge(kTwo, ranks_with({{700, 900}})).go());
  CHECK(judge(kTwo, ranks_with({{700, 900}, {700, 900}, {700, 900}})).go());
  CHECK(judge(kTwo, ranks_with({{700, 900}, {640, 500}, {720, 1500}})).go());
}

TEST_CASE("the slow rank is named, with its figure, the share and the median") {
  const auto verdict = judge(kTwo, ranks_with({{700, 900}, {700, 900}, {620, 900}, {700, 400}}));
  CHECK_FALSE(verdict.go());
  REQUIRE(verdict.reasons.size() == 2);
  CHECK(verdict.reasons[0] == "rank 2 (node2): compute 620 GFLOP/s is below 0.9 x the median, 700 GFLOP/s");
  CHECK(verdict.reasons[1] == "rank 3 (node3): write 400 MB/s is below 0.5 x the median, 900 MB/s");
}

TEST_CASE("each measure has a share of its own") {
  CHECK_FALSE(judge(kTwo, ranks_with({{100, 100}, {80, 100}})).go());
  CHECK(judge(kTwo, ranks_with({{100, 100}, {100, 80}})).go());
}

TEST_CASE("a problem or a figure that is missing is no go, however fast the rest") {
  auto ranks = ranks_with({{700, 900}, {700, 900}});
  ranks[1].problems = {"memory: the plan is 90.0 GB, and 80.0 GB are free"};
  REQUIRE(judge(kTwo, ranks).reasons.size() == 1);
  CHECK(judge(kTwo, ranks).reasons[0] == "rank 1 (node1): memory: the plan is 90.0 GB, and 80.0 GB are free");

  const auto missing = judge(kTwo, ranks_with({{700, 900}, {kNotMeasured, 900}}));
  REQUIRE(missing.reasons.size() == 1);
  CHECK(missing.reasons[0] == "rank 1 (node1): compute was not measured");
}

TEST_CASE("the table has a line for each rank, the medians and the verdict") {
  const auto good = ranks_with({{700, 900}, {710, kNotMeasured}});
  CHECK_THAT(describe(kTwo, good, {}), Contains("compute GFLOP/s") && Contains("write MB/s") && Contains("node0") &&
                                           Contains("node1: a GPU") && Contains("median") && Catch::EndsWith("\ngo\n"));
  const auto bad = ranks_with({{700, 900}, {70, 900}});
  const auto text = describe(kTwo, bad, judge(kTwo, bad));
  CHECK_THAT(text, Contains("rank 1 (node1): compute 70") && Catch::EndsWith("no go, reasons: 1\n"));
}

TEST_CASE("this machine's memory is told") {
  const auto facts = read_device_facts(c10::Device(c10::kCPU));
  CHECK(facts.memory.front().source == "the machine");
  CHECK_THAT(describe(facts), Contains("cores") && Contains("GB free"));
}

TEST_CASE("of a container its own memory and CPUs are told") {
  MadeUpSystem system;
  system.in_group("/job_7").file("/sys/fs/cgroup/job_7/memory.max", "1200000000\n");
  system.file("/sys/fs/cgroup/job_7/memory.current", "100000000\n");
  system.file("/sys/fs/cgroup/job_7/cpu.max", "50000 100000\n");
  CHECK_THAT(describe(read_device_facts(c10::Device(c10::kCPU), system.view())),
             Contains("cores, 0.5 CPUs (cpu.max of /job_7), 1.1 of 1.2 GB free (memory.max of /job_7), "));
}

TEST_CASE("two ranks are measured, and nothing is left behind") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.train.compute_dtype = ComputeDtype::float32;
  std::vector<Examination> found(2);
  run_ranks(2, [&](Communicator& world) {
    found[static_cast<size_t>(world.rank())] = examine(resolve_run(config, world.size()), world, /*slow_below=*/0.0);
  });
  const auto& [measures, ranks] = found[0];
  std::vector<std::string> names;
  for (const auto& measure : measures) names.push_back(measure.name);
  CHECK(names == std::vector<std::string>{"compute", "copy", "write", "read", "shard all-gather",
                                          "shard reduce-scatter", "shard all-to-all"});
  REQUIRE(ranks.size() == 2);
  for (const auto& rank : ranks) {
    CHECK(rank.problems.empty());
    for (const double value : rank.values) CHECK(value > 0);
  }
  CHECK(ranks[0].values == found[1].ranks[0].values);
  CHECK(judge(measures, ranks).go());
  CHECK(std::filesystem::is_empty(folder / ""));
}

TEST_CASE("a run folder that cannot be made, and a plan beyond the memory, are problems") {
  const TempFolder folder;
  auto config = tiny_run(folder.add("file", "not a folder") + "/run");
  config.model.vocab_size = 1LL << 31;
  config.model.d_model = 4096;
  const auto world = make_single_communicator();
  const auto [measures, ranks] = examine(resolve_run(config, world->size()), *world, {});
  REQUIRE(ranks.size() == 1);
  REQUIRE(ranks[0].problems.size() == 2);
  CHECK_THAT(ranks[0].problems[0], Contains("run.folder") && Contains("file"));
  CHECK_THAT(ranks[0].problems[1], Contains("memory: the plan of a rank is"));
  CHECK_FALSE(judge(measures, ranks).go());
}

TEST_CASE("a plan beyond the memory of the container is no go, on a machine that has enough") {
  const TempFolder folder;
  auto config = tiny_run(folder / "run");
  config.train.compute_dtype = ComputeDtype::float32;
  const auto world = make_single_communicator();
  MadeUpSystem system;
  system.in_group("/job_7").file("/sys/fs/cgroup/job_7/memory.max", "1200000000\n");
  const auto verdict = [&] {
    const auto [measures, ranks] =
        examine(resolve_run(config, world->size()), *world, /*slow_below=*/0.0, system.view());
    return judge(measures, ranks);
  };
  CHECK(verdict().go());
  SECTION("more than it may ever take") {
    config.model.vocab_size = 5'000'000;  // 3.8 GB of trained state
    REQUIRE_FALSE(verdict().go());
    CHECK_THAT(verdict().reasons[0], Contains("more than the 1.12 GiB of memory.max of /job_7"));
  }
  SECTION("more than others have left") {
    system.file("/sys/fs/cgroup/job_7/memory.current", "1199999999\n");
    REQUIRE_FALSE(verdict().go());
    CHECK_THAT(verdict().reasons[0], Contains("of 1.12 GiB free (memory.max of /job_7)"));
  }
}
