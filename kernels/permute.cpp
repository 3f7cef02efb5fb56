#include "kernels/permute.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

namespace olmoe::kernels {
namespace {

/// Width of a column tile whose sums are on the stack, so that each output is written once.
constexpr int64_t kTile = 256;

template <typename T>
void combine(const at::Tensor& y_RD, const int32_t* row_NK, int64_t K, const at::Tensor& residual_ND,
             at::Tensor& out_ND) {
  const T* const y_all = y_RD.const_data_ptr<T>();
  const T* const residual_all = residual_ND.defined() ? residual_ND.const_data_ptr<T>() : nullptr;
  T* const out_all = out_ND.data_ptr<T>();
  const int64_t D = out_ND.size(1), y_stride = y_RD.stride(0);
  const int64_t residual_stride = residual_all ? residual_ND.stride(0) : 0;
  for_rows(out_ND.size(0), D * (K + 1), [=](int64_t begin, int64_t end) {
    Acc<T> sum[kTile];
    for (int64_t n = begin; n < end; ++n) {
      for (int64_t first = 0; first < D; first += kTile) {
        const int64_t width = std::min(kTile, D - first);
        std::fill(sum, sum + width, Acc<T>{0});
        if (residual_all) {
          const T* const residual = residual_all + n * residual_stride + first;
#pragma omp simd
          for (int64_t j = 0; j < width; ++j) sum[j] = load(residual[j]);
        }
        for (int64_t k = 0; k < K; ++k) {
          if (row_NK[n * K + k] < 0) continue;
          const T* const y = y_all + row_NK[n * K + k] * y_stride + first;
#pragma omp simd
          for (int64_t j = 0; j < width; ++j) sum[j] += load(y[j]);
        }
        T* const out = out_all + n * D + first;
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) out[j] = rounded<T>(sum[j]);
      }
    }
  });
}

/// out[i] = values[index[i]], 0 where the index is negative, for the compute dtypes.
at::Tensor take(const at::Tensor& values, const at::Tensor& index, at::IntArrayRef sizes) {
  ensure_same_device(values, index, "values by assignment");
  const at::Tensor dense = values.contiguous();
  at::Tensor out = at::empty(sizes, values.options());
  if (dense.is_cuda()) return cuda::take(dense, index, out), out;
  const int32_t* const from = index.const_data_ptr<int32_t>();
  for_dtype(values.scalar_type(), [&]<typename T>() {
    const T* const in = dense.const_data_ptr<T>();
    T* const to = out.data_ptr<T>();
    for_rows(index.numel(), 1, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) to[i] = from[i] < 0 ? T{} : in[from[i]];
    });
  });
  return out;
}

}  // namespace

Permutation sort_by_expert(const at::Tensor& ids_NK, int64_t num_experts, std::optional<int64_t> rows) {
  ensure_dim(ids_NK, 2, "sort_by_expert: ids");
  const int64_t assignments = ids_NK.numel(), R = rows.value_or(assignments);
  ENSURE(assignments <= std::numeric_limits<int32_t>::max(), "{} assignments do not fit int32", assignments);
  ENSURE(R >= 0 && R <= assignments, "{} rows of {} assignments", R, assignments);
  const at::Tensor ids = ids_NK.contiguous();
  Permutation out{at::empty({R}, ids.options()), at::empty(ids.sizes(), ids.options()),
                  at::empty({num_experts}, ids.options())};
  if (ids.is_cuda()) return cuda::sort_by_expert(ids, out), out;
  const int32_t* const expert = ids.const_data_ptr<int32_t>();
  std::vector<int32_t> next_row(num_experts + 1, 0);  // counts first, then where each expert's rows go
  const int64_t least = R == assignments ? 0 : -1;
  for (int64_t i = 0; i < assignments; ++i) {
    ENSURE(expert[i] >= least && expert[i] < num_experts, "expert {} of {}", expert[i], num_experts);
    if (expert[i] >= 0) ++next_row[expert[i] + 1];
  }
  int32_t* const offsets = out.offsets_E.data_ptr<int32_t>();
  for (int64_t e = 0; e < num_experts; ++e) offsets[e] = next_row[e + 1] += next_row[e];
  ENSURE(next_row[num_experts] == R, "{} assignments have an expert, but `rows` is {}", next_row[num_experts], R);
  int32_t *const assignment = out.assignment_R.data_ptr<int32_t>(), *const row = out.row_NK.data_ptr<int32_t>();
  for (int64_t i = 0; i < assignments; ++i) {
    row[i] = expert[i] < 0 ? -1 : next_row[expert[i]]++;
    if (row[i] >= 0) assignment[row[i]] = static_cast<int32_t>(i);
  }
  return out;
}

at::Tensor gather_rows(const at::Tensor& x_ND, const Permutation& permutation) {
  ensure_dim(x_ND, 2, "gather_rows: x");
  ensure_same_device(permutation.assignment_R, x_ND, "gather_rows: the permutation");
  const int64_t R = permutation.assignment_R.size(0), K = permutation.row_NK.size(1), D = x_ND.size(1);
  ENSURE(x_ND.size(0) == permutation.row_NK.size(0), "{} tokens, but the permutation is of {}", x_ND.size(0),
         permutation.row_NK.size(0));
  const at::Tensor x = dense_rows(x_ND);
  at::Tensor x_RD = at::empty({R, D}, x.options());
  if (x.is_cuda()) return cuda::gather_rows(x, permutation, x_RD), x_RD;
  const int64_t row_bytes = D * x.element_size(), stride_bytes = x.stride(0) * x.element_size();
  const auto* const from = static_cast<const char*>(x.const_data_ptr());
  auto* const to = static_cast<char*>(x_RD.mutable_data_ptr());
  const int32_t* const assignment = permutation.assignment_R.const_data_ptr<int32_t>();
  for_rows(R, D, [=](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(to + r * row_bytes, from + assignment[r] / K * stride_bytes, row_bytes);
  });
  return x_RD;
}

at::Tensor combine_rows(const at::Tensor& y_RD, const Permutation& permutation, const at::Tensor& residual_ND) {
  ensure_dim(y_RD, 2, "combine_rows: y");
  ensure_same_device(permutation.row_NK, y_RD, "combine_rows: the permutation");
  const int64_t N = permutation.row_NK.size(0), K = permutation.row_NK.size(1), D = y_RD.size(1);
  ENSURE(y_RD.size(0) == permutation.assignment_R.size(0), "{} rows, but the permutation is of {}", y_RD.size(0),
         permutation.assignment_R.size(0));
  at::Tensor residual;
  if (residual_ND.defined()) {
    ENSURE(residual_ND.sizes() == at::IntArrayRef({N, D}) && residual_ND.scalar_type() == y_RD.scalar_type(),
           "combine_rows: the residual must be [{}, {}], of y's dtype", N, D);
    residual = dense_rows(residual_ND);
  }
  const at::Tensor y = dense_rows(y_RD);
  at::Tensor out_ND = at::empty({N, D}, y.options());
  if (y.is_cuda()) return cuda::combine_rows(y, permutation, residual, out_ND), out_ND;
  for_dtype(y.scalar_type(), [&]<typename Element>() {
    combine<Element>(y, permutation.row_NK.const_data_ptr<int32_t>(), K, residual, out_ND);
  });
  return out_ND;
}

at::Tensor to_rows(const at::Tensor& v_NK, const Permutation& permutation) {
  ENSURE(v_NK.numel() == permutation.row_NK.numel(), "{} values for {} assignments", v_NK.numel(),
         permutation.row_NK.numel());
  return take(v_NK, permutation.assignment_R, permutation.assignment_R.sizes());
}

at::Tensor to_assignments(const at::Tensor& v_R, const Permutation& permutation) {
  ENSURE(v_R.numel() == permutation.assignment_R.numel(), "{} values for {} rows", v_R.numel(),
         permutation.assignment_R.numel());
  return take(v_R, permutation.row_NK, permutation.row_NK.sizes());
}

}  // namespace olmoe::kernels
