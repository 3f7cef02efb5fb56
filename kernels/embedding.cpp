#include "kernels/embedding.h"

#include <ATen/ops/empty.h>

#include <cstring>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// Ids on a GPU are checked by the kernels; reading them here would be a host sync.
void ensure_ids(const at::Tensor& ids_N, int64_t rows) {
  ensure_dim(ids_N, 1, "embedding: ids");
  if (!ids_N.is_cpu()) return;
  const int64_t* const ids = ids_N.const_data_ptr<int64_t>();
  for (int64_t n = 0; n < ids_N.size(0); ++n)
    ENSURE(ids[n] >= 0 && ids[n] < rows, "token id {} at {} is outside of the vocabulary of {}", ids[n], n, rows);
}

}  // namespace

at::Tensor embedding(const at::Tensor& ids_N, const at::Tensor& w_VD) {
  ensure_dim(w_VD, 2, "embedding: weight");
  ensure_same_device(ids_N, w_VD, "embedding: ids");
  const at::Tensor ids = ids_N.contiguous(), w = w_VD.contiguous();
  ensure_ids(ids, w.size(0));
  at::Tensor x_ND = at::empty({ids.size(0), w.size(1)}, w.options());
  if (w.is_cuda()) return cuda::embedding(ids, w, x_ND), x_ND;
  const int64_t row_bytes = w.size(1) * w.element_size();
  const auto* const from = static_cast<const char*>(w.const_data_ptr());
  auto* const to = static_cast<char*>(x_ND.mutable_data_ptr());
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  for_rows(ids.size(0), w.size(1), [=](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) std::memcpy(to + n * row_bytes, from + id[n] * row_bytes, row_bytes);
  });
  return x_ND;
}

void embedding_backward(const at::Tensor& dx_ND, const at::Tensor& ids_N, at::Tensor dw_VD) {
  ensure_dim(dx_ND, 2, "embedding_backward: dx");
  ensure_same_device(ids_N, dx_ND, "embedding_backward: ids");
  ensure_weight_grad(dw_VD, dx_ND.scalar_type());
  const at::Tensor ids = ids_N.contiguous(), dx = dense_rows(dx_ND);
  ensure_ids(ids, dw_VD.size(0));
  const int64_t N = dx.size(0), D = dx.size(1), dx_stride = dx.stride(0);
  ENSURE(ids.size(0) == N && dw_VD.size(1) == D, "embedding_backward: {} ids and width {} for dx of {} x {}",
         ids.size(0), dw_VD.size(1), N, D);
  if (dx.is_cuda()) return cuda::embedding_backward(dx, ids, dw_VD);
  const int64_t* const id = ids.const_data_ptr<int64_t>();
  for_dtype(dx.scalar_type(), [&]<typename T>() {
    const T* const dx_all = dx.const_data_ptr<T>();
    Acc<T>* const dw_all = dw_VD.data_ptr<Acc<T>>();
    // Parallel over columns, not tokens: no two threads write one element, and tokens are added in order.
    for_rows(D, N, [=](int64_t begin, int64_t end) {
      for (int64_t n = 0; n < N; ++n) {
        const T* const from = dx_all + n * dx_stride;
        Acc<T>* const to = dw_all + id[n] * D;
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) to[j] += load(from[j]);
      }
    });
  });
}

}  // namespace olmoe::kernels
