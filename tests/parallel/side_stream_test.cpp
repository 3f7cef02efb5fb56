// A side stream on a device that only records what its streams are given, and on the CPU, which has none.
#include "parallel/side_stream.h"

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

TEST_CASE("work on a side stream overlaps the caller's stream, each ordered after what it waits for") {
  notes() = {};
  SideStream side(kNoting, Overlap::yes);
  side.run([] { work("gather"); });
  work("compute");
  side.wait();
  work("more");
  CHECK(notes().lines == std::vector<std::string>{"new stream, high priority", "stream 0 reaches event 1",
                                                  "stream 1 waits for event 1", "gather on stream 1",
                                                  "compute on stream 0", "stream 1 reaches event 2",
                                                  "stream 0 waits for event 2", "more on stream 0"});
}

TEST_CASE("two side streams wait for the caller's stream, not for each other") {
  notes() = {};
  SideStream gathers(kNoting, Overlap::yes), reductions(kNoting, Overlap::yes);
  notes().lines.clear();
  gathers.run([] { work("gather"); });
  reductions.run([] { work("reduce"); });
  CHECK(notes().lines == std::vector<std::string>{"stream 0 reaches event 1", "stream 1 waits for event 1",
                                                  "gather on stream 1", "stream 0 reaches event 2",
                                                  "stream 2 waits for event 2", "reduce on stream 2"});
}

TEST_CASE("a mark is waited for alone, whatever the side stream was given since") {
  notes() = {};
  SideStream side(kNoting, Overlap::yes);
  side.run([] { work("first"); });
  const auto first = side.mark();
  side.run([] { work("second"); });
  notes().lines.clear();
  side.wait(first);
  CHECK(notes().lines == std::vector<std::string>{"stream 0 waits for event 2"});  // 1 and 3 are the caller's
  SideStream in_line(kNoting, Overlap::no);
  CHECK_FALSE(in_line.mark());
  in_line.wait(in_line.mark());
}

TEST_CASE("work that throws leaves the caller's current stream as it was") {
  notes() = {};
  SideStream side(kNoting, Overlap::yes);
  REQUIRE_THROWS_AS(side.run([] { throw std::runtime_error("no"); }), std::runtime_error);
  CHECK(notes().current == 0);
}

TEST_CASE("without overlap, or on a CPU, work runs at once on the caller's stream") {
  notes() = {};
  SideStream in_line(kNoting, Overlap::no), cpu(c10::Device(c10::kCPU), Overlap::yes);
  for (SideStream* side : {&in_line, &cpu}) {
    side->run([] { work("gather"); });
    work("compute");
    side->wait();
  }
  CHECK(notes().lines == std::vector<std::string>{"gather on stream 0", "compute on stream 0", "gather on stream 0",
                                                  "compute on stream 0"});
}

TEST_CASE("a side stream that was given nothing is not waited for, and has no mark") {
  notes() = {};
  SideStream side(kNoting, Overlap::yes);
  notes().lines.clear();
  side.wait();
  CHECK_FALSE(side.mark());
  CHECK(notes().lines.empty());
  side.run([] { work("gather"); });
  side.wait();
  notes().lines.clear();
  side.wait();
  CHECK_FALSE(side.mark());
  CHECK(notes().lines.empty());
}

TEST_CASE("a step may be captured in which a side stream is given nothing, or is waited for first") {
  notes() = {};
  SideStream gathers(kNoting, Overlap::yes), reductions(kNoting, Overlap::yes);
  for (SideStream* side : {&gathers, &reductions}) {
    side->run([] { work("before the capture"); });
    side->wait();
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
  SideStream side(kNoting, Overlap::yes);
  side.run([] { work("before the capture"); });
  const auto outside = side.mark();
  notes().begin_capture();
  CHECK_THROWS_WITH(side.wait(), Catch::Contains("stream 0 is captured and waits for event 3 of stream 1"));
  notes() = {};
  notes().begin_capture();
  side.run([] { work("gather"); });
  CHECK_THROWS_WITH(notes().end_capture(), Catch::Contains("stream 1 has not joined it again"));
  notes().begin_capture();
  side.run([] { work("gather"); });
  const auto first = side.mark();
  side.run([] { work("another"); });
  side.wait(first);
  CHECK_THROWS_WITH(notes().end_capture(), Catch::Contains("stream 1 has not joined it again"));
}
