// What a step's line of metrics.jsonl holds.
#include "trainer/metrics.h"

#include "support/catch.h"
#include "support/file_size_limit.h"
#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

nlohmann::json line_of(const StepMetrics& metrics) {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  MetricsLog(folder / "run", /*writes=*/true, 0, 1'000'000, 1'000'000).write(metrics);
  return metrics_of(folder / "run").at(0);
}

}  // namespace

TEST_CASE("a step's line has host syncs only where they were counted") {
  StepMetrics metrics{};
  metrics.step = 7;
  CHECK_FALSE(line_of(metrics).contains("host_syncs"));
  for (const int64_t syncs : {0, 3}) {
    metrics.host_syncs = syncs;
    CHECK(line_of(metrics).at("host_syncs") == syncs);
    CHECK(line_of(metrics).at("step") == 7);
  }
}

TEST_CASE("a step's line has the output z-loss only where there is one") {
  StepMetrics metrics{};
  metrics.step = 7;
  CHECK_FALSE(line_of(metrics).contains("output_z_loss"));
  metrics.output_z_loss = 2.5;
  CHECK(line_of(metrics).at("output_z_loss") == 2.5);
}

TEST_CASE("a step's line has assignments by rank, layer and expert only in the steps that have them") {
  StepMetrics metrics{};
  metrics.step = 7;
  CHECK_FALSE(line_of(metrics).contains("expert_counts"));
  metrics.rank_counts = RankCounts{{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, {2, 3, 2}};
  CHECK(line_of(metrics).at("expert_counts") == nlohmann::json::parse("[[[1,2],[3,4],[5,6]],[[7,8],[9,10],[11,12]]]"));
}

TEST_CASE("a step's line has masked sequences only where there are any") {
  StepMetrics metrics{};
  metrics.step = 7;
  CHECK_FALSE(line_of(metrics).contains("masked_sequences"));
  metrics.masked_sequences = 2;
  CHECK(line_of(metrics).at("masked_sequences") == 2);
}

TEST_CASE("a metric that is not finite is refused by name on every rank") {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  for (const bool writes : {true, false}) {
    MetricsLog log(folder / "run", writes, 0, 100, 100);
    const auto refusal = [&](const std::function<void()>& write) {
      try {
        write();
      } catch (const Error& error) {
        CHECK(error.code() == ExitCode::non_finite);
        return std::string(error.what());
      }
      return std::string("written");
    };
    StepMetrics metrics{};
    metrics.step = 7;
    metrics.router_z_loss = INFINITY;
    CHECK_THAT(refusal([&] { log.write(metrics); }), Catch::StartsWith("step 7: router_z_loss is inf: not finite"));
    CHECK_THAT(refusal([&] {
                 log.write(7, {{"a", "loss", 1.0}, {"b", "loss", std::nan("")}});
               }),
               Catch::StartsWith("step 7: eval/b/loss is nan: not finite") &&
                   Catch::Contains("If " + (folder / "run") + "/checkpoints has step 7, move that checkpoint away") &&
                   Catch::Contains("remove it from evaluation.paths, evaluation.sets or evaluation.tasks"));
  }
  CHECK(lines_of(folder / "run").empty());
}

TEST_CASE("lines that cannot be written wait in memory, and the end of the run says how many are lost") {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  std::filesystem::create_symlink("/dev/full", folder / "run/metrics.jsonl");
  MetricsLog log(folder / "run", /*writes=*/true, 0, 100, 100);
  StepMetrics metrics{};
  for (metrics.step = 1; metrics.step <= static_cast<int64_t>(MetricsLog::kMostWaiting); ++metrics.step)
    log.write(metrics);
  CHECK(log.problem().empty());
  log.write(1, {{"a", "loss", 1.0}});
  CHECK_THAT(log.problem(), Catch::Contains("metrics.jsonl': No space left on device"));
  CHECK_THAT(log.close(), Catch::Contains("No space left on device: 10001 lines of metrics are lost"));
}

TEST_CASE("lines that waited are written in order once they can be, whole, and none is lost") {
  const TempFolder folder;
  std::filesystem::create_directory(folder / "run");
  MetricsLog log(folder / "run", /*writes=*/true, 0, 100, 100);
  StepMetrics metrics{};
  const auto write_steps = [&](int64_t last) {
    while (metrics.step < last) ++metrics.step, log.write(metrics);
  };
  write_steps(3);
  {
    const auto size = std::filesystem::file_size(folder / "run/metrics.jsonl");
    const FileSizeLimit disk_is_full(size + 10);  // a part of a line fits
    write_steps(6);
    CHECK(std::filesystem::file_size(folder / "run/metrics.jsonl") == size);
  }
  write_steps(8);
  CHECK(log.close().empty());
  const auto lines = lines_of(folder / "run");
  REQUIRE(lines.size() == 8);
  for (size_t i = 0; i < 8; ++i) CHECK(lines[i]["step"] == i + 1);
}

TEST_CASE("a reopened log knows whether the step from which the run resumes was evaluated") {
  const TempFolder folder;
  const auto evaluated = [&](const std::string& lines) {
    folder.add("run/metrics.jsonl", lines);
    return MetricsLog(folder / "run", /*writes=*/true, 7, 100, 100).has_evaluation();
  };
  CHECK(evaluated("{\"step\":7,\"loss\":1}\n{\"step\":7,\"eval/a/loss\":1}\n{\"step\":8}\n"));
  CHECK_FALSE(evaluated("{\"step\":6,\"eval/a/loss\":1}\n{\"step\":7,\"loss\":1}\n"));
  CHECK_FALSE(evaluated("{\"step\":6,\"eval/a/loss\":1}\n"));
  CHECK_FALSE(evaluated(""));
}
