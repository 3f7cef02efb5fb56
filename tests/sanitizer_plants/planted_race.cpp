// A data race on purpose: two threads count without a lock. A thread sanitizer build that lets it
// pass sees nothing.
#include <cstdio>
#include <thread>

int main() {
  int count = 0;
  const auto work = [&count] {
    for (int i = 0; i < 1000; ++i) ++count;
  };
  std::thread first(work), second(work);
  first.join();
  second.join();
  std::printf("counted %d, and nobody saw the race\n", count);
  return 0;
}
