// Keys and words that had another name in earlier versions, and those of versions that are not known here.
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
  const auto [job, unknown, others] = read_saved_config<Job>("rounds: 4\nlinks: {pieces: 3, road: staged}");
  CHECK(unknown.empty());
  CHECK(others.empty());
  CHECK(job.steps == 4);
  CHECK(job.links.chunks == 3);
  CHECK(job.links.road == Road::host);
  CHECK(write_config(job).find("chunks: 3") != std::string::npos);
  CHECK(write_config(job).find("staged") == std::string::npos);
  CHECK(read_saved_config<Job>(write_config(job)).config.links.road == Road::host);
}

TEST_CASE("unknown keys and words of a saved config are listed with their values, each key of a section by itself") {
  const auto saved = read_saved_config<Job>(
      "steps: 4\nlinks: {chunks: 2, road: rail, part: 3, lanes: [a, \"b c\"]}\nwatch: {mail: {to: me}, level: "
      "2}\nempty: {}\n");
  CHECK(saved.problems.empty());
  CHECK(saved.config.links.chunks == 2);
  CHECK(saved.config.links.road == Road::nccl);  // its default
  std::vector<std::string> lines;
  for (const auto& [key, value, words] : saved.unknown) lines.push_back(fmt::format("{}={} ({})", key, value, words));
  CHECK(lines == std::vector<std::string>{"watch.mail.to=me ()", "watch.level=2 ()", "empty={} ()", "links.part=3 ()",
                                          "links.lanes=[a, \\\"b c\\\"] ()", "links.road=rail (one of nccl, host)"});
}

TEST_CASE("a saved config has all other problems that a user's config may have, and ranges are checked") {
  CHECK(read_saved_config<Job>("links: {pieces: 3}").problems ==
        std::vector<std::string>{"steps: required key is missing (saved config)"});
  CHECK(read_saved_config<Job>("steps: many\nlinks: {road: [host]}").problems ==
        std::vector<std::string>{"steps: expected an integer, got 'many' (saved config:1)",
                                 "links.road: expected one of nccl, host, got a list (saved config:2)"});
  CHECK(read_saved_config<Job>("steps: 1\nlinks: {chunks: 9}").problems ==
        std::vector<std::string>{"links.chunks: 9 must be between 1 and 8"});
  CHECK(read_saved_config<Job>("steps: [").problems.size() == 1);
}

}  // namespace olmoe
