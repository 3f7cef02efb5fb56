#include "kernels/rows/row_loop.h"

#include <ATen/Version.h>

namespace olmoe::kernels {

bool has_avx512() {
  static const bool has = at::get_cpu_capability() == "AVX512";
  return has;
}

}  // namespace olmoe::kernels
