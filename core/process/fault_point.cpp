#include "core/process/fault_point.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <optional>
#include <sstream>
#include <string>
#include <thread>

#include "core/error.h"

namespace olmoe {
namespace {

struct Fault {
  std::string point, kind;
  int rank = 0, nth = 0;
  int64_t sleep_ms = 0;
};

std::optional<Fault> armed_fault() {
  const char* const text = std::getenv("OLMOE_FAULT");
  if (text == nullptr) return {};
  Fault fault;
  std::istringstream words(text);
  words >> fault.point >> fault.rank >> fault.nth >> fault.kind;
  const bool sleeps = fault.kind == "sleep";
  if (sleeps) words >> fault.sleep_ms;
  const bool known = std::ranges::find(kFaultPoints, fault.point) != kFaultPoints.end();
  if (!words || !known || fault.nth < 1 || (fault.kind != "kill" && !sleeps))
    throw ConfigError(fmt::format("OLMOE_FAULT: '{}' is not POINT RANK NTH kill, or POINT RANK NTH sleep MS", text));
  return fault;
}

}  // namespace

void fault_point(std::string_view point, int rank) {
  static const auto fault = armed_fault();
  static std::atomic<int> passed = 0;
  if (!fault || fault->point != point || fault->rank != rank || ++passed != fault->nth) return;
  if (fault->kind == "kill") ::kill(::getpid(), SIGKILL);
  std::this_thread::sleep_for(std::chrono::milliseconds(fault->sleep_ms));
}

}  // namespace olmoe
