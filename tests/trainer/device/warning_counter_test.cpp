#include "trainer/device/warning_counter.h"

#include <c10/util/Exception.h>

#include <thread>

#include "support/catch.h"

using namespace olmoe;

TEST_CASE("warnings of one kind are counted, in one thread, and others are handed on", "[kernels]") {
  const WarningCounter all("");  // of every kind: it sees what the others hand on, and nothing reaches the console
  {
    const WarningCounter counter("waited for");
    for (int i = 0; i < 3; ++i) TORCH_WARN("the host waited for device ", i);
    TORCH_WARN("something else");
    int64_t of_thread = 0;
    std::thread([&] {
      const WarningCounter own("waited for");
      TORCH_WARN("the host waited for a device, in another thread");
      of_thread = own.count();
    }).join();
    CHECK(of_thread == 1);
    CHECK(counter.count() == 3);
    CHECK(all.count() == 1);
  }
  TORCH_WARN("the host waited for what nobody counts any more");
  CHECK(all.count() == 2);
}
