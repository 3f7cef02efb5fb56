#include <cstdlib>

#include "support/run_tests.h"

int main(int argc, char* argv[]) {
  // As prepare_process() of the programs does, floors above most tests: cuBLAS's bits, and the order of NCCL's groups.
  setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
  setenv("NCCL_LAUNCH_ORDER_IMPLICIT", "1", /*overwrite=*/0);
  return olmoe::run_tests(argc, argv);
}
