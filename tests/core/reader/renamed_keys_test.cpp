// Keys and words that had another name in earlier versions.
#include "core/reader/config_reader.h"
#include "support/catch.h"

namespace olmoe {
namespace {

enum class Road { nccl, host };

struct Links {
  int64_t chunks = 1;
  Road road = Road::nccl;
  template <class V>
  void fields(V& v) {
    v.renamed("pieces", "chunks");
    v("chunks", chunks, {1, 8}, "of a message");
    v("road", road, "between ranks");
  }
};

struct Job {
  int64_t steps = 0;
  Links links;
  template <class V>
  void fields(V& v) {
    v.required("steps", steps, {1}, "of a run");
    v("links", links, "a section");
    v.renamed("rounds", "steps");
  }
};

std::string problems(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    read_config_text<Job>(text, "x.yaml", overrides);
    return "none";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

}  // namespace

template <>
struct EnumNames<Road> {
  static constexpr std::array names{"nccl", "host"};
  static constexpr std::array renamed{RenamedKey{"staged", "host"}};
};

TEST_CASE("an old name in a file or on the command line is an error with the new name") {
  CHECK(problems("steps: 1\nlinks: {pieces: 3}") == "links.pieces: is called links.chunks now (x.yaml:2)");
  CHECK(problems("steps: 1", {"links.pieces=3"}) == "links.pieces: is called links.chunks now (command line)");
  CHECK(problems("steps: 1\nlinks: {road: staged}") ==
        "links.road: expected one of nccl, host, got 'staged' (x.yaml:2), 'staged' is called 'host' now");
  // The new name is missing as well.
  CHECK(problems("rounds: 1") == "rounds: is called steps now (x.yaml:1)\nsteps: required key is missing (x.yaml)");
  CHECK(problems("steps: 1\nlinks: {chunks: 3, road: host}") == "none");
}

TEST_CASE("a saved config is read with old names and written with new ones") {
  const auto job = read_saved_config<Job>("rounds: 4\nlinks: {pieces: 3, road: staged}", "manifest.json");
  CHECK(job.steps == 4);
  CHECK(job.links.chunks == 3);
  CHECK(job.links.road == Road::host);
  CHECK(write_config(job).find("chunks: 3") != std::string::npos);
  CHECK(write_config(job).find("staged") == std::string::npos);
  CHECK(read_saved_config<Job>(write_config(job), "manifest.json").links.road == Road::host);
}

TEST_CASE("a saved config follows the same rules otherwise") {
  CHECK_THROWS_WITH(read_saved_config<Job>("steps: 1\nlinks: {part: 3}", "manifest.json"),
                    Catch::Contains("links.part: unknown key"));
  CHECK_THROWS_WITH(read_saved_config<Job>("links: {pieces: 3}", "manifest.json"),
                    Catch::Contains("steps: required key is missing"));
  CHECK_THROWS_WITH(read_saved_config<Job>("steps: 1\nlinks: {road: rail}", "manifest.json"),
                    Catch::Contains("expected one of nccl, host, got 'rail'"));
}

}  // namespace olmoe
