// The one GEMM of cuBLAS that kernels/grouped_gemm.cu calls.
#pragma once
#include <c10/util/BFloat16.h>

#include <cstdint>

#include "emulation/global_memory.h"

using cublasHandle_t = void*;
enum cublasStatus_t { CUBLAS_STATUS_SUCCESS, CUBLAS_STATUS_NOT_SUPPORTED };
enum cublasOperation_t { CUBLAS_OP_N, CUBLAS_OP_T };
enum cudaDataType_t { CUDA_R_16BF, CUDA_R_32F };
enum cublasComputeType_t { CUBLAS_COMPUTE_32F };
enum cublasGemmAlgo_t { CUBLAS_GEMM_DEFAULT };

namespace at::cuda {
inline cublasHandle_t getCurrentCUDABlasHandle() { return nullptr; }
}  // namespace at::cuda

inline const char* cublasGetStatusString(cublasStatus_t) { return "not supported by the emulation"; }

/// c [m, n] = alpha a b^T + beta c, by columns; a [m, k] and b [n, k] bf16, c fp32.
inline cublasStatus_t cublasGemmEx_64(cublasHandle_t, cublasOperation_t a_op, cublasOperation_t b_op, int64_t m,
                                      int64_t n, int64_t k, const float* alpha, const void* a, cudaDataType_t,
                                      int64_t a_stride, const void* b, cudaDataType_t, int64_t b_stride,
                                      const float* beta, void* c, cudaDataType_t c_type, int64_t c_stride,
                                      cublasComputeType_t, cublasGemmAlgo_t) {
  if (a_op != CUBLAS_OP_N || b_op != CUBLAS_OP_T || c_type != CUDA_R_32F) return CUBLAS_STATUS_NOT_SUPPORTED;
  const emulation::GlobalMemory::Access access;
  const auto *const as = static_cast<const c10::BFloat16*>(a), *const bs = static_cast<const c10::BFloat16*>(b);
  for (int64_t column = 0; column < n; ++column) {
    for (int64_t row = 0; row < m; ++row) {
      float sum = 0, &to = static_cast<float*>(c)[column * c_stride + row];
      for (int64_t i = 0; i < k; ++i) sum += float{as[i * a_stride + row]} * float{bs[i * b_stride + column]};
      to = *beta == 0 ? *alpha * sum : *alpha * sum + *beta * to;  // as cuBLAS, which then does not read c
    }
  }
  return CUBLAS_STATUS_SUCCESS;
}
