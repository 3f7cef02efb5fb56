#include "parallel/collectives/trace_comparison.h"

#include "parallel/collectives/collective_cases.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

TracedCall call(int64_t sequence, const std::string& what, bool finished, double since_s, int64_t elements = 64) {
  return {sequence, what, elements, finished, since_s};
}

RankTrace rank_at(int rank, std::vector<TracedCall> calls) {
  return {.rank = rank, .host = "node1", .pid = 100 + rank, .beat = 7, .calls = std::move(calls)};
}

const TracedCall kGathered = call(126, "shard.all_gather BFloat16", true, 36);

RankTrace waiting(int rank, double since_s) {
  return rank_at(rank, {kGathered, call(127, "shard.reduce_scatter Float", false, since_s)});
}

}  // namespace

TEST_CASE("the least advanced rank is named, and ranks at the same call share a line") {
  const auto text = compare_traces({waiting(0, 35), waiting(1, 34.2), rank_at(2, {kGathered}), waiting(3, 35)}, {});
  CHECK(text ==
        "  rank 2 (node1, pid 102): in no call; finished #126 shard.all_gather BFloat16 64 36.0 s ago\n"
        "  ranks 0-1, 3: waiting in #127 shard.reduce_scatter Float 64 for 34.2 to 35.0 s\n"
        "look at rank 2 first: the others have come further\n");
}

TEST_CASE("a rank inside a call is less advanced than one that finished it") {
  const auto stuck = rank_at(1, {call(126, "shard.all_gather BFloat16", false, 9)});
  const auto text = compare_traces({rank_at(0, {kGathered}), stuck}, {});
  check_contains(text, "look at rank 1 first");
  CHECK(text.find("rank 1 ") < text.find("rank 0 "));
}

TEST_CASE("silent ranks come first, with the last call that they wrote") {
  const auto text = compare_traces({waiting(0, 35), waiting(1, 35)}, {{2, rank_at(2, {kGathered})}, {5, {}}});
  CHECK(
      text ==
      "  rank 2 (node1, pid 102): silent; when last heard of, in no call; finished #126 shard.all_gather BFloat16 64\n"
      "  rank 5: silent, and left no trace\n"
      "  ranks 0-1: waiting in #127 shard.reduce_scatter Float 64 for 35.0 s\n"
      "look at ranks 2, 5 first: stopped, dead, or on a machine that is out of reach\n");
}

TEST_CASE("ranks in different calls are distinguished, and the first difference is named") {
  auto other = rank_at(1, {kGathered, call(127, "replicate.all_reduce Float", false, 35)});
  const auto text = compare_traces({waiting(0, 35), other}, {});
  check_contains(text,
                 "call #127 is not the same on all ranks: replicate.all_reduce Float 64 on rank 1; "
                 "shard.reduce_scatter Float 64 on rank 0\n");
  SECTION("another size is another call") {
    other.calls.back() = call(127, "shard.reduce_scatter Float", false, 35, 65);
    check_contains(compare_traces({waiting(0, 35), other}, {}), "call #127 is not the same on all ranks");
  }
  SECTION("rows of an all_to_all may differ") {
    const auto sends = [](int rank, int64_t rows) {
      return rank_at(rank, {call(3, "expert.all_to_all Float", false, 1, rows)});
    };
    const auto same = compare_traces({sends(0, 5), sends(1, 0)}, {});
    CHECK(same.find("not the same") == std::string::npos);
    check_contains(same, "ranks 0-1: waiting in #3 expert.all_to_all Float for 1.0 s\n");
  }
}

TEST_CASE("if all ranks are at the same call, or made none, no rank is blamed") {
  check_contains(compare_traces({waiting(0, 3), waiting(1, 3)}, {}), "all ranks are at the same place");
  const auto text = compare_traces({rank_at(0, {}), waiting(1, 3)}, {});
  check_contains(text, "rank 0 (node1, pid 100): made no call yet\n");
  check_contains(text, "look at rank 0 first");
}

TEST_CASE("a trace is read as it was written, an incomplete one is not read") {
  const auto trace = waiting(12, 0.125);
  const auto text = trace.text();
  const auto read = RankTrace::parse(text);
  REQUIRE(read.has_value());
  CHECK(read->text() == text);
  CHECK(read->rank == 12);
  CHECK(read->pid == 112);
  CHECK(read->beat == 7);
  CHECK(read->calls.back().what == "shard.reduce_scatter Float");
  CHECK_FALSE(read->calls.back().finished);
  CHECK(read->calls.back().since_s == 0.125);
  for (size_t size = 0; size + 1 < text.size(); ++size) CHECK_FALSE(RankTrace::parse(text.substr(0, size)).has_value());
  CHECK_FALSE(RankTrace::parse("the ranks hang: no collective call of rank 0 began").has_value());
}

TEST_CASE("a trace has the age of its calls") {
  CallTrace trace;
  CHECK(trace.calls().empty());
  trace.finish(trace.enter("shard", Collective::all_gather, at::kFloat, 4));
  trace.enter("world", Collective::barrier, at::kByte, 0);
  const auto calls = trace.calls();
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].text() == "#0 shard.all_gather Float 4 finished");
  CHECK(calls[1].text() == "#1 world.barrier Byte 0 entered");
  CHECK(calls[0].since_s >= calls[1].since_s);
  CHECK(trace.quiet_s() >= calls[1].since_s);
  CHECK(trace.quiet_s() < 60);
}

TEST_CASE("consecutive ranks are listed as a range") {
  CHECK(rank_list({3}) == "rank 3");
  CHECK(rank_list({0, 1, 2, 5, 7, 8}) == "ranks 0-2, 5, 7-8");
}
