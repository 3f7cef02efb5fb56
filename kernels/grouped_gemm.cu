// Shapes: R rows sorted by expert, E experts, I inputs, O outputs, N rows of the dense case.
//
// bf16 goes through the libraries: ATen's grouped GEMM (CUTLASS on compute capability 9.0 and 10.0; on older GPUs ATen
// loops over the experts, with a host sync for their offsets) and cuBLAS. float32 and float64, which tests use, have a
// plain kernel: ATen's grouped GEMM refuses float64, and for float32 it has a host sync.
#include <ATen/cuda/CUDAContextLight.h>
#include <ATen/ops/_grouped_mm.h>
#include <ATen/ops/empty.h>

#include "kernels/cuda_kernels.h"
#include "kernels/grouped_gemm_index.h"
#include "kernels/rows/launch.cuh"

namespace olmoe::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = kRowsPerTile;

template <typename T>
struct Matrix {
  const T* data;
  int64_t rows, columns, row_stride, column_stride;

  __device__ T at(int64_t row, int64_t column) const {
    return row < rows && column < columns ? data[row * row_stride + column * column_stride] : T{0};
  }
};

/// Element (row, column) of a * b. Called by all kTile x kTile threads of a block, for one tile of the result.
template <typename T>
__device__ T product_element(const Matrix<T>& a, const Matrix<T>& b, int64_t row, int64_t column) {
  __shared__ T a_tile[kTile][kTile + 1], b_tile[kTile][kTile + 1];
  const unsigned x = threadIdx.x, y = threadIdx.y;
  T sum = 0;
  for (int64_t k = 0; k < a.columns; k += kTile) {
    a_tile[y][x] = a.at(row, k + x);
    b_tile[y][x] = b.at(k + y, column);
    __syncthreads();
    for (int j = 0; j < kTile; ++j) sum += a_tile[y][j] * b_tile[j][x];
    __syncthreads();
  }
  return sum;
}

template <typename T>
struct GroupedOperands {
  const T* x;  ///< [R, I]
  const T* w;  ///< [E, I, O]
  const int32_t* offsets_E;
  T* y;  ///< [R, O], contiguous
  int64_t x_stride, w_strides[3], E, I, O;
};

/// A block has 16 rows of one expert and 16 outputs.
template <typename T>
__global__ void __launch_bounds__(kTile* kTile) multiply_rows(GroupedOperands<T> g) {
  const RowTile tile = row_tile(blockIdx.x, g.offsets_E, g.E);
  if (tile.expert == g.E) return;
  const int64_t row = threadIdx.y, column = static_cast<int64_t>(blockIdx.y) * kTile + threadIdx.x;
  const Matrix<T> x{g.x + tile.begin * g.x_stride, tile.end - tile.begin, g.I, g.x_stride, 1};
  const Matrix<T> w{g.w + tile.expert * g.w_strides[0], g.I, g.O, g.w_strides[1], g.w_strides[2]};
  const T sum = product_element(x, w, row, column);
  if (row < x.rows && column < g.O) g.y[(tile.begin + row) * g.O + column] = sum;
}

template <typename T>
struct WeightGradOperands {
  const T *dy, *x;  ///< [R, O], [R, I]
  const int32_t* offsets_E;
  T* dw;  ///< [E, O, I], contiguous
  int64_t dy_stride, x_stride, O, I;
  GradWrite write;
};

/// A block has 16 x 16 elements of one expert's gradient.
template <typename T>
__global__ void __launch_bounds__(kTile* kTile) put_weight_grad(WeightGradOperands<T> g) {
  const RowTile rows = rows_of_expert(blockIdx.z, g.offsets_E);
  const int64_t n = rows.end - rows.begin;
  if (n == 0 && g.write == GradWrite::add) return;
  const int64_t row = static_cast<int64_t>(blockIdx.y) * kTile + threadIdx.y;
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kTile + threadIdx.x;
  const Matrix<T> dy{g.dy + rows.begin * g.dy_stride, g.O, n, 1, g.dy_stride};  // transposed
  const Matrix<T> x{g.x + rows.begin * g.x_stride, n, g.I, g.x_stride, 1};
  const T sum = product_element(dy, x, row, column);
  if (row >= g.O || column >= g.I) return;
  T& dw = g.dw[(rows.expert * g.O + row) * g.I + column];
  dw = g.write == GradWrite::store ? sum : dw + sum;
}

/// dw_EOI += product_EOI, or stored. For experts without rows the library's result is unspecified, and zero is used.
template <int N>
__global__ void __launch_bounds__(kThreads) put_product(const c10::BFloat16* product_EOI, const int32_t* offsets_E,
                                                        int64_t elements_per_expert, float* dw_EOI, GradWrite write) {
  const RowTile rows = rows_of_expert(blockIdx.y, offsets_E);
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) * N;
  const bool empty = rows.begin == rows.end, stores = write == GradWrite::store;
  if ((empty && !stores) || i >= elements_per_expert) return;
  const int64_t at = rows.expert * elements_per_expert + i;
  Vector<float, N> sum{};
  if (!stores) sum = load_vector<N>(dw_EOI + at);
  Vector<c10::BFloat16, N> product{};
  if (!empty) product = load_vector<N>(product_EOI + at);
#pragma unroll
  for (int j = 0; j < N; ++j) sum.values[j] += load(product.values[j]);
  store_vector(dw_EOI + at, sum);
}

void bf16_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E, at::Tensor& dw_EOI,
                      GradWrite write) {
  const at::Tensor product_EOI = at::_grouped_mm(dy_RO.t(), x_RI, offsets_E);
  ENSURE(product_EOI.is_contiguous() && product_EOI.sizes() == dw_EOI.sizes(),
         "grouped GEMM: ATen's result does not have the layout of the weight gradient");
  const Launch launch(dw_EOI);
  const int64_t E = dw_EOI.size(0), elements_per_expert = dw_EOI[0].numel();
  const auto* const product = product_EOI.const_data_ptr<c10::BFloat16>();
  const int32_t* const offsets = offsets_E.const_data_ptr<int32_t>();
  float* const dw = dw_EOI.data_ptr<float>();
  for_width<float>(rows_are_vectors(dw, elements_per_expert, elements_per_expert), [&]<int kWidth>() {
    const dim3 blocks(blocks_for(elements_per_expert, kThreads * kWidth), static_cast<unsigned>(E));
    put_product<kWidth><<<blocks, kThreads, 0, launch>>>(product, offsets, elements_per_expert, dw, write);
  });
}

template <typename T>
at::Tensor plain_grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EIO, const at::Tensor& offsets_E) {
  const int64_t R = x_RI.size(0), E = w_EIO.size(0), O = w_EIO.size(2);
  at::Tensor y_RO = at::empty({R, O}, x_RI.options());
  const Launch launch(y_RO);
  const dim3 blocks(blocks_for(max_row_tiles(R, E), 1), blocks_for(O, kTile));
  multiply_rows<<<blocks, dim3(kTile, kTile), 0, launch>>>(
      GroupedOperands<T>{.x = x_RI.const_data_ptr<T>(),
                         .w = w_EIO.const_data_ptr<T>(),
                         .offsets_E = offsets_E.const_data_ptr<int32_t>(),
                         .y = y_RO.data_ptr<T>(),
                         .x_stride = x_RI.stride(0),
                         .w_strides = {w_EIO.stride(0), w_EIO.stride(1), w_EIO.stride(2)},
                         .E = E,
                         .I = x_RI.size(1),
                         .O = O});
  return y_RO;
}

template <typename T>
void plain_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E, at::Tensor& dw_EOI,
                       GradWrite write) {
  const int64_t E = dw_EOI.size(0), O = dw_EOI.size(1), I = dw_EOI.size(2);
  const Launch launch(dw_EOI);
  const dim3 blocks(blocks_for(I, kTile), blocks_for(O, kTile), static_cast<unsigned>(E));
  put_weight_grad<<<blocks, dim3(kTile, kTile), 0, launch>>>(
      WeightGradOperands<T>{.dy = dy_RO.const_data_ptr<T>(),
                            .x = x_RI.const_data_ptr<T>(),
                            .offsets_E = offsets_E.const_data_ptr<int32_t>(),
                            .dw = dw_EOI.data_ptr<T>(),
                            .dy_stride = dy_RO.stride(0),
                            .x_stride = x_RI.stride(0),
                            .O = O,
                            .I = I,
                            .write = write});
}

}  // namespace

at::Tensor grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EIO, const at::Tensor& offsets_E) {
  if (x_RI.size(0) == 0) return at::empty({0, w_EIO.size(2)}, x_RI.options());
  const at::Tensor x = dense_rows(x_RI), offsets = offsets_E.contiguous();
  if (x.scalar_type() == at::kBFloat16) return at::_grouped_mm(x, w_EIO, offsets);
  at::Tensor y_RO;
  for_dtype(x.scalar_type(), [&]<typename T>() {
    if constexpr (std::is_same_v<T, Acc<T>>) y_RO = plain_grouped_gemm<T>(x, w_EIO, offsets);
  });
  return y_RO;
}

void grouped_gemm_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E,
                              at::Tensor& dw_EOI, GradWrite write) {
  if (x_RI.size(0) == 0) {
    if (write == GradWrite::store) dw_EOI.zero_();
    return;
  }
  const at::Tensor dy = dense_rows(dy_RO), x = dense_rows(x_RI), offsets = offsets_E.contiguous();
  if (x.scalar_type() == at::kBFloat16) return bf16_weight_grad(dy, x, offsets, dw_EOI, write);
  for_dtype(x.scalar_type(), [&]<typename T>() {
    if constexpr (std::is_same_v<T, Acc<T>>) plain_weight_grad<T>(dy, x, offsets, dw_EOI, write);
  });
}

/// cuBLAS is column-major: it computes dw^T = x^T dy in the same memory. TF32 and reduced-precision sums, which ATen
/// may have allowed on this handle, do not apply to bf16 operands with an fp32 result. ATen leaves its handles in host
/// pointer mode.
void gemm_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor& dw_OI, GradWrite write) {
  const at::Tensor dy = dense_rows(dy_NO), x = dense_rows(x_NI);
  const int64_t N = x.size(0), O = dy.size(1), I = x.size(1);
  ENSURE(dy.size(0) == N && dw_OI.sizes() == at::IntArrayRef({O, I}),
         "weight gradient: dy {} x {} and x {} x {} do not match dw {} x {}", dy.size(0), O, N, I, dw_OI.size(0),
         dw_OI.size(1));
  ENSURE(dy.scalar_type() == at::kBFloat16 && x.scalar_type() == at::kBFloat16,
         "weight gradient: operands in {} and {}, bf16 expected", c10::toString(dy.scalar_type()),
         c10::toString(x.scalar_type()));
  if (N == 0 || O == 0 || I == 0) return;
  const Launch launch(dw_OI);
  const float alpha = 1, beta = write == GradWrite::store ? 0 : 1;
  const cublasStatus_t status = cublasGemmEx_64(
      at::cuda::getCurrentCUDABlasHandle(), CUBLAS_OP_N, CUBLAS_OP_T, I, O, N, &alpha, x.const_data_ptr(), CUDA_R_16BF,
      std::max(x.stride(0), I), dy.const_data_ptr(), CUDA_R_16BF, std::max(dy.stride(0), O), &beta,
      dw_OI.mutable_data_ptr(), CUDA_R_32F, I, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
  ENSURE(status == CUBLAS_STATUS_SUCCESS, "weight gradient {} x {} over {} rows: cuBLAS returned {}", O, I, N,
         cublasGetStatusString(status));
}

}  // namespace olmoe::kernels::cuda
