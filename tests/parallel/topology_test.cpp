#include "parallel/topology.h"

#include "core/error.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

/// "aabb" -> four ranks on hosts a, a, b, b.
Topology of(const std::string& hosts, MeshShape shape) {
  std::vector<std::string> names;
  for (char host : hosts) names.emplace_back(1, host);
  return describe_topology(names, shape);
}

using Names = std::vector<std::string>;

}  // namespace

TEST_CASE("ranks numbered host by host keep the innermost axes within hosts") {
  const auto two_hosts = of("aaaabbbb", {.replicate = 2, .shard = 4, .expert = 2});
  CHECK(two_hosts.summary ==
        "8 ranks on 2 hosts, 4 each; within a host: expert, expert_shard, shard; between hosts: replicate");
  CHECK(two_hosts.scattered.empty());
  const auto one_copy = of("aaaabbbb", {.replicate = 1, .shard = 8, .expert = 4});
  CHECK(one_copy.summary == "8 ranks on 2 hosts, 4 each; within a host: expert; between hosts: expert_shard, shard");
  CHECK(one_copy.scattered.empty());
}

TEST_CASE("all axes are within a single host, and a world of one has none") {
  CHECK(of("aaaa", {.replicate = 2, .shard = 2}).summary ==
        "4 ranks on 1 host; within a host: expert_shard, shard, replicate");
  CHECK(of("a", {}).summary == "1 rank");
}

TEST_CASE("axes are scattered if they cross hosts only because of the numbering") {
  // expert_shard has stride 2, so turns on two hosts happen to keep it together; the others pay.
  CHECK(of("abababab", {.replicate = 2, .shard = 4, .expert = 2}).scattered == Names{"expert", "shard"});
  CHECK(of("abababab", {.replicate = 1, .shard = 8, .expert = 2}).scattered == Names{"expert"});
  CHECK(of("abcdabcd", {.replicate = 1, .shard = 8, .expert = 2}).scattered == Names{"expert"});
  // Eight experts' ranks cannot be on hosts of four, however they are placed.
  CHECK(of("abababab", {.replicate = 1, .shard = 8, .expert = 8}).scattered.empty());
  CHECK(of("abab", {.replicate = 4, .shard = 1}).scattered.empty());
}

TEST_CASE("hosts of different sizes, or with one rank each, are not scattered") {
  const auto uneven = of("aaab", {.replicate = 2, .shard = 2});
  CHECK(uneven.summary == "4 ranks on 2 hosts, 1 to 3 each; between hosts: expert_shard, shard, replicate");
  CHECK(uneven.scattered.empty());
  CHECK(of("abcd", {.replicate = 1, .shard = 4, .expert = 2}).scattered.empty());
}

TEST_CASE("hosts that do not fit the mesh are refused") {
  CHECK_THROWS_AS(of("aaa", {.replicate = 2, .shard = 2}), Error);
}
