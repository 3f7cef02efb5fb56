#include "kernels/grouped_gemm.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include "kernels/blas.h"
#include "kernels/cuda_kernels.h"
#include "kernels/rows/dtypes.h"

namespace olmoe::kernels {
namespace {

/// dw_OI += dy^T x for bf16 operands, or stored, accumulated in fp32. ATen's GEMM would round to bf16 before the
/// addition, and takes twice the time at OLMoE's width.
void bf16_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor& dw_OI, GradWrite write) {
  const at::Tensor dy = dense_rows(dy_NO), x = dense_rows(x_NI);
  const int64_t N = x.size(0), O = dy.size(1), I = x.size(1);
  ENSURE(dy.size(0) == N && dw_OI.sizes() == at::IntArrayRef({O, I}),
         "weight gradient: dy {} x {} and x {} x {} do not match dw {} x {}", dy.size(0), O, N, I, dw_OI.size(0),
         dw_OI.size(1));
  using Operand = blas::Matrix<const c10::BFloat16>;
  const Operand dy_rows{dy.const_data_ptr<c10::BFloat16>(), dy.stride(0), /*transposed=*/true},
      x_rows{x.const_data_ptr<c10::BFloat16>(), x.stride(0)};
  const float beta = write == GradWrite::store ? 0 : 1;
  blas::multiply({O, I, N}, 1, dy_rows, x_rows, beta, {dw_OI.data_ptr<float>(), I});
}

/// Calls f(e, first_row, rows) for each expert, in order. Throws Error unless the offsets ascend and cover
/// `total_rows`.
template <typename F>
void for_experts(const at::Tensor& offsets_E, int64_t total_rows, const F& f) {
  const int32_t* const offsets = offsets_E.const_data_ptr<int32_t>();
  int64_t first = 0;
  for (int64_t e = 0; e < offsets_E.size(0); ++e) {
    ENSURE(offsets[e] >= first && offsets[e] <= total_rows, "expert {} has rows [{}, {}), of {}", e, first, offsets[e],
           total_rows);
    f(e, first, offsets[e] - first);
    first = offsets[e];
  }
  ENSURE(first == total_rows, "the offsets of the experts cover {} rows of {}", first, total_rows);
}

/// out = in * w_e for the rows of each expert; weight(e) is [columns of in, columns of out].
///
/// oneDNN compiles code for each new shape of a bf16 GEMM, and the rows of an expert differ in every step: compiling
/// took half of a step. So each GEMM takes a multiple of 32 rows. The surplus rows belong to later experts, whose GEMMs
/// overwrite them. Near the end of the matrix, where there are no surplus rows, the remainder is a GEMM of its own.
/// Other dtypes go through MKL, which has no such cost.
template <typename Weight>
void multiply_by_expert(const at::Tensor& in, const at::Tensor& offsets_E, const Weight& weight,
                        const at::Tensor& out) {
  const int64_t quantum = in.scalar_type() == at::kBFloat16 ? 32 : 1, total_rows = in.size(0);
  const auto multiply = [&](int64_t e, int64_t first, int64_t rows) {
    at::Tensor out_rows = out.narrow(0, first, rows);
    at::mm_out(out_rows, in.narrow(0, first, rows), weight(e));
  };
  for_experts(offsets_E, total_rows, [&](int64_t e, int64_t first, int64_t rows) {
    if (rows == 0) return;
    const int64_t rest = rows % quantum, rounded_up = rest > 0 ? rows - rest + quantum : rows;
    if (first + rounded_up <= total_rows) return multiply(e, first, rounded_up);
    if (rows > rest) multiply(e, first, rows - rest);
    multiply(e, first + rows - rest, rest);
  });
}

void ensure_operands(const at::Tensor& x, const at::Tensor& w_EOI, int64_t contracted_dim,
                     const at::Tensor& offsets_E) {
  ensure_dim(x, 2, "grouped GEMM: rows");
  ensure_dim(w_EOI, 3, "grouped GEMM: weight");
  ensure_dim(offsets_E, 1, "grouped GEMM: offsets");
  ensure_same_device(w_EOI, x, "grouped GEMM: weight");
  ensure_same_device(offsets_E, x, "grouped GEMM: offsets");
  ENSURE(x.size(1) == w_EOI.size(contracted_dim) && offsets_E.size(0) == w_EOI.size(0),
         "grouped GEMM: rows of {} and {} offsets for weights of {} x {} x {}", x.size(1), offsets_E.size(0),
         w_EOI.size(0), w_EOI.size(1), w_EOI.size(2));
}

}  // namespace

at::Tensor grouped_gemm(const at::Tensor& x_RI, const at::Tensor& w_EOI, const at::Tensor& offsets_E) {
  ensure_operands(x_RI, w_EOI, 2, offsets_E);
  if (x_RI.is_cuda()) return cuda::grouped_gemm(x_RI, w_EOI.transpose(1, 2), offsets_E);
  at::Tensor y_RO = at::empty({x_RI.size(0), w_EOI.size(1)}, x_RI.options());
  multiply_by_expert(
      x_RI, offsets_E, [&](int64_t e) { return w_EOI.select(0, e).t(); }, y_RO);
  return y_RO;
}

at::Tensor grouped_gemm_input_grad(const at::Tensor& dy_RO, const at::Tensor& w_EOI, const at::Tensor& offsets_E) {
  ensure_operands(dy_RO, w_EOI, 1, offsets_E);
  if (dy_RO.is_cuda()) return cuda::grouped_gemm(dy_RO, w_EOI, offsets_E);
  at::Tensor dx_RI = at::empty({dy_RO.size(0), w_EOI.size(2)}, dy_RO.options());
  multiply_by_expert(
      dy_RO, offsets_E, [&](int64_t e) { return w_EOI.select(0, e); }, dx_RI);
  return dx_RI;
}

void grouped_gemm_weight_grad(const at::Tensor& dy_RO, const at::Tensor& x_RI, const at::Tensor& offsets_E,
                              at::Tensor dw_EOI, GradWrite write) {
  ensure_operands(x_RI, dw_EOI, 2, offsets_E);
  ENSURE(dy_RO.size(0) == x_RI.size(0), "grouped GEMM: {} rows of dy, {} of x", dy_RO.size(0), x_RI.size(0));
  ensure_weight_grad(dw_EOI, x_RI.scalar_type());
  if (x_RI.is_cuda()) return cuda::grouped_gemm_weight_grad(dy_RO, x_RI, offsets_E, dw_EOI, write);
  for_experts(offsets_E, x_RI.size(0), [&](int64_t e, int64_t first, int64_t rows) {
    gemm_weight_grad(dy_RO.narrow(0, first, rows), x_RI.narrow(0, first, rows), dw_EOI.select(0, e), write);
  });
}

at::Tensor gemm(const at::Tensor& x_NI, const at::Tensor& w_OI) {
  ensure_dim(x_NI, 2, "GEMM: rows");
  return at::mm(x_NI, w_OI.t());
}

at::Tensor gemm_input_grad(const at::Tensor& dy_NO, const at::Tensor& w_OI) {
  ensure_dim(dy_NO, 2, "GEMM: rows");
  return at::mm(dy_NO, w_OI);
}

void gemm_weight_grad(const at::Tensor& dy_NO, const at::Tensor& x_NI, at::Tensor dw_OI, GradWrite write) {
  ensure_dim(dy_NO, 2, "GEMM: dy");
  ensure_same_device(dw_OI, dy_NO, "GEMM: the weight gradient");
  ensure_weight_grad(dw_OI, x_NI.scalar_type());
  const bool stores = write == GradWrite::store;
  if (x_NI.size(0) == 0) {
    if (stores) dw_OI.zero_();
  } else if (x_NI.scalar_type() == dw_OI.scalar_type()) {
    dw_OI.addmm_(dy_NO.t(), x_NI, /*beta=*/stores ? 0 : 1);
  } else if (x_NI.is_cuda()) {
    cuda::gemm_weight_grad(dy_NO, x_NI, dw_OI, write);
  } else {
    bf16_weight_grad(dy_NO, x_NI, dw_OI, write);
  }
}

}  // namespace olmoe::kernels
