// Overflows on purpose: `heap` reads past an allocation, `signed` overflows an int. An address and
// undefined behaviour sanitizer build that lets one pass sees nothing.
#include <cstdio>
#include <cstring>
#include <limits>
#include <vector>

int main(int argc, char* argv[]) {
  if (argc != 2) return 64;
  int result = 0;
  if (std::strcmp(argv[1], "heap") == 0) {
    const std::vector<int> numbers(4, 1);
    result = numbers.data()[argc + 2];
  } else {
    result = std::numeric_limits<int>::max() - 1 + argc;
  }
  std::printf("got %d, and nobody saw the overflow\n", result);
  return 0;
}
