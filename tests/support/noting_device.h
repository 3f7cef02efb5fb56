// A device that only writes down what is asked of its streams, and refuses in a capture what CUDA refuses. Its memory
// is the host's; it has no kernels.
#pragma once
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace olmoe::test {

/// Stream 0 is the default one, the pool hands out 1, 2, ...; events are numbered from 1.
///
/// A capture begins on one stream. A stream joins it by waiting for an event of a stream that is in it. Refused, as by
/// cudaErrorStreamCaptureIsolation and ...Unjoined: a captured stream waits for an event from outside, and a stream
/// that joined is not waited for, after all it was given, when the capture ends.
class NotedStreams {
 public:
  std::vector<std::string> lines;
  c10::StreamId current = 0;
  c10::StreamId streams = 0;

  void begin_capture() {
    origin_ = current;
    captured_ = {current};
    given_.clear();
    seen_.clear();
  }
  void end_capture() {
    const auto joined = std::exchange(captured_, {});
    for (const auto stream : joined)
      if (stream != origin_ && seen_[origin_][stream] != given_[stream])
        throw std::runtime_error(fmt::format("the capture ends while stream {} has not joined it again", stream));
  }

  intptr_t record(c10::StreamId on) {
    events_.push_back({on, captured_.contains(on), {}});
    auto& event = events_.back();
    if (event.captured) {
      event.seen = seen_[on];
      event.seen[on] = given_[on];
    }
    lines.push_back(fmt::format("stream {} reaches event {}", on, events_.size()));
    return static_cast<intptr_t>(events_.size());
  }
  void block(intptr_t number, c10::StreamId waiting) {
    lines.push_back(fmt::format("stream {} waits for event {}", waiting, number));
    const auto& event = events_.at(static_cast<size_t>(number) - 1);
    if (captured_.contains(waiting) && !event.captured)
      throw std::runtime_error(fmt::format("stream {} is captured and waits for event {} of stream {}, which is not",
                                           waiting, number, event.stream));
    if (!event.captured || captured_.empty()) return;
    captured_.insert(waiting);
    ++given_[waiting];
    for (const auto& [stream, count] : event.seen) seen_[waiting][stream] = std::max(seen_[waiting][stream], count);
  }

 private:
  using Counts = std::map<c10::StreamId, int64_t>;
  struct Event {
    c10::StreamId stream;
    bool captured;
    Counts seen;  ///< how much of what each stream was given comes before this
  };
  std::vector<Event> events_;
  std::set<c10::StreamId> captured_;  ///< none: nothing is being captured
  c10::StreamId origin_ = 0;
  Counts given_;                          ///< waits of each captured stream, and so the work behind them
  std::map<c10::StreamId, Counts> seen_;  ///< of other streams, by a stream's waits
};
inline NotedStreams& noted_streams() {
  static NotedStreams of_the_device;
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
  c10::Stream getStream(c10::Device device) const override { return stream(device, noted_streams().current); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool high_priority) const override {
    noted_streams().lines.push_back(fmt::format("new stream, {} priority", high_priority ? "high" : "usual"));
    return stream(device, ++noted_streams().streams);
  }
  c10::Stream exchangeStream(c10::Stream to) const override {
    return stream(to.device(), std::exchange(noted_streams().current, to.id()));
  }
  void record(void** event, const c10::Stream& on, c10::DeviceIndex, c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(noted_streams().record(on.id()));
  }
  void block(void* event, const c10::Stream& stream) const override {
    noted_streams().block(reinterpret_cast<intptr_t>(event), stream.id());
  }
  void destroyEvent(void*, c10::DeviceIndex) const noexcept override {}

 private:
  static c10::Stream stream(c10::Device device, c10::StreamId id) {
    return c10::Stream(c10::Stream::UNSAFE, device, id);
  }
};

/// Once in a program, whichever of its files use the device: LibTorch would replace the first of two.
inline const NotingGuard noting_guard;
inline const c10::impl::DeviceGuardImplRegistrar noting_registrar(NotingGuard::static_type, &noting_guard);
const c10::Device kNoting(NotingGuard::static_type);

}  // namespace olmoe::test
