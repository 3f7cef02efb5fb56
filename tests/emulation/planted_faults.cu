// Planted faults that end the program with a sanitizer's report, which ctest looks for: one case is run at a time.
#include <ATen/ops/full.h>

#include <cstring>

#include "kernels/rows/launch.cuh"
#include "support/catch.h"

using namespace olmoe::kernels;

namespace {

constexpr int64_t kRows = 9, kColumns = 64;

__global__ void double_rows(float* x, int64_t rows) {
  const int64_t row = blockIdx.x;
  if (row <= rows) x[row * kColumns + threadIdx.x] *= 2;  // one row too many
}
__global__ void read_off_16_bytes(const float* x, float* out) {
  out[threadIdx.x] = cuda::load_vector<4>(x + 1).values[threadIdx.x];
}
__global__ void past_dynamic_shared(float* x) {
  extern __shared__ float row[];
  row[threadIdx.x + 1] = x[threadIdx.x];
  x[threadIdx.x] = row[threadIdx.x];
}
template <int kThreads>
__global__ void past_static_shared(float* x) {
  __shared__ float row[kThreads];
  row[threadIdx.x + 1] = x[threadIdx.x];
  x[threadIdx.x] = row[threadIdx.x];
}

at::Tensor on_gpu() { return at::full({kRows, kColumns}, 1, at::TensorOptions().device(at::kCUDA).dtype(at::kFloat)); }

}  // namespace

TEST_CASE("planted: row_past_the_end", "[.planted]") {
  const at::Tensor x = on_gpu();
  double_rows<<<kRows + 1, kColumns>>>(x.data_ptr<float>(), kRows);
}
TEST_CASE("planted: misaligned_load", "[.planted]") {
  const at::Tensor x = on_gpu();
  read_off_16_bytes<<<1, 4>>>(x.const_data_ptr<float>(), x.data_ptr<float>());
}
TEST_CASE("planted: past_dynamic_shared", "[.planted]") {
  const at::Tensor x = on_gpu();
  past_dynamic_shared<<<1, 64, 64 * sizeof(float)>>>(x.data_ptr<float>());
}
TEST_CASE("planted: past_static_shared", "[.planted]") {
  const at::Tensor x = on_gpu();
  past_static_shared<64><<<1, 64>>>(x.data_ptr<float>());
}
TEST_CASE("planted: host_reads_gpu", "[.planted]") {
  const at::Tensor x = on_gpu();
  CHECK(std::memcmp(x.const_data_ptr(), x.const_data_ptr<float>() + kColumns, kColumns * sizeof(float)) == 0);
}
