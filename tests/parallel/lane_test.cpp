// A lane on a device that only writes down what is asked of its streams, and on the CPU, which has none.
#include "parallel/lane.h"

#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "support/catch.h"
#include "support/noting_device.h"

using namespace olmoe;

namespace {

using test::kNoting;

test::NotedStreams& notes() { return test::noted_streams(); }

void work(const std::string& name) { notes().lines.push_back(fmt::format("{} on stream {}", name, notes().current)); }

}  // namespace

TEST_CASE("a lane runs beside the caller's stream, each ordered after what it waits for") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  lane.run([] { work("gather"); });
  work("compute");
  lane.wait();
  work("more");
  CHECK(notes().lines == std::vector<std::string>{"new stream, high priority", "stream 0 reaches event 1",
                                                  "stream 1 waits for event 1", "gather on stream 1",
                                                  "compute on stream 0", "stream 1 reaches event 2",
                                                  "stream 0 waits for event 2", "more on stream 0"});
}

TEST_CASE("two lanes have a stream each, and wait for the caller alone") {
  notes() = {};
  Lane gathers(kNoting, Lane::Beside::yes), reductions(kNoting, Lane::Beside::yes);
  notes().lines.clear();
  gathers.run([] { work("gather"); });
  reductions.run([] { work("reduce"); });
  CHECK(notes().lines == std::vector<std::string>{"stream 0 reaches event 1", "stream 1 waits for event 1",
                                                  "gather on stream 1", "stream 0 reaches event 2",
                                                  "stream 2 waits for event 2", "reduce on stream 2"});
}

TEST_CASE("a mark is waited for alone, whatever the lane was given since") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  lane.run([] { work("first"); });
  const auto first = lane.mark();
  lane.run([] { work("second"); });
  notes().lines.clear();
  lane.wait(first);
  CHECK(notes().lines == std::vector<std::string>{"stream 0 waits for event 2"});  // 1 and 3 are the caller's
  Lane in_line(kNoting, Lane::Beside::no);
  CHECK_FALSE(in_line.mark());
  in_line.wait(in_line.mark());
}

TEST_CASE("work that throws leaves the caller on its stream") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  REQUIRE_THROWS_AS(lane.run([] { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(notes().current == 0);
}

TEST_CASE("work that is not to run beside, or cannot, runs at once") {
  notes() = {};
  Lane in_line(kNoting, Lane::Beside::no), cpu(c10::Device(c10::kCPU), Lane::Beside::yes);
  for (Lane* lane : {&in_line, &cpu}) {
    lane->run([] { work("gather"); });
    work("compute");
    lane->wait();
  }
  CHECK(notes().lines == std::vector<std::string>{"gather on stream 0", "compute on stream 0", "gather on stream 0",
                                                  "compute on stream 0"});
}

TEST_CASE("a lane that was given nothing is not waited for, and has no mark") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  notes().lines.clear();
  lane.wait();
  CHECK_FALSE(lane.mark());
  CHECK(notes().lines.empty());
  lane.run([] { work("gather"); });
  lane.wait();
  notes().lines.clear();
  lane.wait();
  CHECK_FALSE(lane.mark());
  CHECK(notes().lines.empty());
}

TEST_CASE("a step may be captured in which a lane is given nothing, or is waited for first") {
  notes() = {};
  Lane gathers(kNoting, Lane::Beside::yes), reductions(kNoting, Lane::Beside::yes);
  for (Lane* lane : {&gathers, &reductions}) {
    lane->run([] { work("before the capture"); });
    lane->wait();
  }
  notes().begin_capture();
  CHECK_NOTHROW(reductions.wait());
  gathers.run([] { work("gather"); });
  const auto gathered = gathers.mark();
  CHECK_NOTHROW(gathers.wait(gathered));
  CHECK_NOTHROW(notes().end_capture());
}

TEST_CASE("the streams of these tests refuse in a capture what CUDA refuses") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  lane.run([] { work("before the capture"); });
  const auto outside = lane.mark();
  notes().begin_capture();
  CHECK_THROWS_WITH(lane.wait(), Catch::Contains("stream 0 is captured and waits for event 3 of stream 1"));
  notes() = {};
  notes().begin_capture();
  lane.run([] { work("gather"); });
  CHECK_THROWS_WITH(notes().end_capture(), Catch::Contains("stream 1 has not joined it again"));
  notes().begin_capture();
  lane.run([] { work("gather"); });
  const auto first = lane.mark();
  lane.run([] { work("another"); });
  lane.wait(first);
  CHECK_THROWS_WITH(notes().end_capture(), Catch::Contains("stream 1 has not joined it again"));
}
