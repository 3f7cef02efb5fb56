// A lane on a device that only writes down what is asked of its streams, and on the CPU, which has none.
#include "parallel/lane.h"

#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.h"

using namespace olmoe;

namespace {

/// Stream 0 is the default one, the pool hands out 1, 2, ...; events are numbered from 1.
struct Notes {
  std::vector<std::string> lines;
  c10::StreamId current = 0;
  c10::StreamId streams = 0;
  intptr_t events = 0;
};
Notes& notes() {
  static Notes of_the_device;
  return of_the_device;
}

class NotingGuard final : public c10::impl::DeviceGuardImplInterface {
 public:
  static constexpr c10::DeviceType static_type = c10::DeviceType::PrivateUse1;
  explicit NotingGuard(c10::DeviceType = static_type) {}
  c10::DeviceType type() const override { return static_type; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Device getDevice() const override { return {static_type, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::DeviceIndex deviceCount() const noexcept override { return 0; }  // nothing else should find it
  c10::Stream getStream(c10::Device device) const override { return stream(device, notes().current); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool high_priority) const override {
    notes().lines.push_back(fmt::format("new stream, {} priority", high_priority ? "high" : "usual"));
    return stream(device, ++notes().streams);
  }
  c10::Stream exchangeStream(c10::Stream to) const override {
    return stream(to.device(), std::exchange(notes().current, to.id()));
  }
  void record(void** event, const c10::Stream& on, c10::DeviceIndex, c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(++notes().events);
    notes().lines.push_back(fmt::format("stream {} reaches event {}", on.id(), notes().events));
  }
  void block(void* event, const c10::Stream& stream) const override {
    const auto number = reinterpret_cast<intptr_t>(event);
    notes().lines.push_back(fmt::format("stream {} waits for event {}", stream.id(), number));
  }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}

 private:
  static c10::Stream stream(c10::Device device, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, device, id);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, NotingGuard)

const c10::Device kNoting(NotingGuard::static_type);

void work(const std::string& name) {
  notes().lines.push_back(fmt::format("{} on stream {}", name, notes().current));
}

}  // namespace

TEST_CASE("a lane runs beside the caller's stream, each ordered after what it waits for") {
  notes() = {};
  Lane lane(kNoting, Lane::Beside::yes);
  lane.run([] { work("gather"); });
  work("compute");
  lane.wait();
  work("more");
  CHECK(notes().lines == std::vector<std::string>{"new stream, high priority",
                                                  "stream 0 reaches event 1", "stream 1 waits for event 1",
                                                  "gather on stream 1", "compute on stream 0",
                                                  "stream 1 reaches event 2", "stream 0 waits for event 2",
                                                  "more on stream 0"});
}

TEST_CASE("two lanes have a stream each, and wait for the caller alone") {
  notes() = {};
  Lane gathers(kNoting, Lane::Beside::yes), reductions(kNoting, Lane::Beside::yes);
  notes().lines.clear();
  gathers.run([] { work("gather"); });
  reductions.run([] { work("reduce"); });
  CHECK(notes().lines == std::vector<std::string>{"stream 0 reaches event 1", "stream 1 waits for event 1",
                                                  "gather on stream 1",
                                                  "stream 0 reaches event 2", "stream 2 waits for event 2",
                                                  "reduce on stream 2"});
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
  CHECK(notes().lines == std::vector<std::string>{"gather on stream 0", "compute on stream 0",
                                                  "gather on stream 0", "compute on stream 0"});
}
