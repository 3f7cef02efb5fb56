// Host memory of the copy of an asynchronous save: allocated and touched once, before the first save.
#include "trainer/checkpoint/state_snapshot.h"

#include <ATen/ops/arange.h>
#include <sys/resource.h>

#include <vector>

#include "support/catch.h"

using namespace olmoe;

namespace {

constexpr int64_t kNumel =
    int64_t{16} << 20;  // 64 MiB of float32: malloc takes them from the system and gives them back

/// Pages that the system gave to this thread since it started.
long page_faults() {
  rusage usage{};
  REQUIRE(getrusage(RUSAGE_THREAD, &usage) == 0);
  return usage.ru_minflt;
}

}  // namespace

TEST_CASE("a copy takes no new pages once its memory is reserved") {
  const std::vector<StateTensor> state{{.kind = "weight", .slices = {}, .flat = at::arange(kNumel, at::kFloat)}};
  const bool reserved = GENERATE(true, false);
  StateSnapshot snapshot(at::kCPU);
  if (reserved) snapshot.reserve(state);
  const auto before = page_faults();
  snapshot.begin(state);
  const auto copy = snapshot.complete();
  const auto faults = page_faults() - before;
  snapshot.wait_until_copied();
  CHECK(copy[0].flat.equal(state[0].flat));
  INFO(faults << " page faults");
  if (reserved) CHECK(faults < 8);
  if (!reserved) CHECK(faults >= 32);  // 64 MiB in pages of 2 MiB, more in pages of 4 KiB
}
