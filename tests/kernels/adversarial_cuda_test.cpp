// Edge cases of operands on a GPU, each aimed at one kind of indexing error. Tagged [cuda], and also run in the
// emulation (tests/emulation).
#include <ATen/ops/arange.h>
#include <ATen/ops/full.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/randint.h>
#include <ATen/ops/where.h>

#include "core/targets.h"
#include "kernels/adamw.h"
#include "kernels/compare.h"
#include "kernels/cross_entropy.h"
#include "kernels/embedding.h"
#include "kernels/permute.h"
#include "kernels/rms_norm.h"
#include "kernels/rotary.h"
#include "kernels/router.h"
#include "kernels/swiglu.h"

using namespace olmoe::kernels;
using namespace olmoe::kernels::testing;

namespace {

at::Tensor gpu(const at::Tensor& x) { return x.to(at::kCUDA); }

/// The same values on the GPU, misaligned: one element past a multiple of 16 bytes.
at::Tensor shifted(const at::Tensor& x) {
  const at::Tensor memory = at::empty({x.numel() + 1}, x.options().device(at::kCUDA));
  return memory.narrow(0, 1, x.numel()).view(x.sizes()).copy_(x);
}
bool close(const at::Tensor& ours, const at::Tensor& reference, int64_t n) {
  return ours.is_cuda() && relative_error(ours.cpu(), reference) <= 2 * bound(reference.scalar_type(), n);
}
bool same(const at::Tensor& ours, const at::Tensor& reference) {
  return ours.is_cuda() && same_bits(ours.cpu(), reference);
}
at::Tensor random_ids(int64_t high, at::IntArrayRef sizes, uint64_t seed) {
  at::Generator generator = at::detail::createCPUGenerator(seed);
  return at::randint(high, sizes, generator, at::TensorOptions().dtype(at::kInt));
}

}  // namespace

TEST_CASE("GPU: rows of views that are not aligned to 16 bytes", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  CAPTURE(dtype);
  const int64_t N = 9, D = 64;
  const auto x = normal({N, D}, dtype, 1), w = normal({D}, dtype, 2), dy = normal({N, D}, dtype, 3);
  const auto cpu_out = rms_norm(x, w, 1e-5);
  CHECK(close(rms_norm(shifted(x), gpu(w), 1e-5).y_ND, cpu_out.y_ND, D));
  auto dw = normal({D}, statistics_dtype(dtype), 4), gpu_dw = shifted(dw);
  const auto dx = rms_norm_backward(dy, x, w, cpu_out.rstd_N, dw);
  CHECK(close(rms_norm_backward(shifted(dy), gpu(x), gpu(w), gpu(cpu_out.rstd_N), gpu_dw), dx, D));
  CHECK(close(gpu_dw, dw, N));
  const auto z = normal({N, 2 * D}, dtype, 5), dh = normal({N, D}, dtype, 6);
  CHECK(close(swiglu(shifted(z), {}), swiglu(z, {}), 1));
  CHECK(close(swiglu_backward(shifted(dh), shifted(z), {}).dz_R2F, swiglu_backward(dh, z, {}).dz_R2F, 1));
  const auto fused = normal({N, 3 * D}, dtype, 7), table_Sd = rotary_table(3, 16, 10000, dtype);
  const auto gpu_fused = shifted(fused);
  const NormRotaryOperands in{fused.narrow(1, D, D), w, table_Sd, {}};
  const NormRotaryOperands gpu_in{gpu_fused.narrow(1, D, D), gpu(w), gpu(table_Sd), {}};
  CHECK(close(norm_rotary(gpu_in, 1e-5).y_NW, norm_rotary(in, 1e-5).y_NW, D));
  const auto ids = random_ids(5, {N}, 8).to(at::kLong), table_VD = normal({5, D}, dtype, 9);
  CHECK(same(olmoe::kernels::embedding(gpu(ids), shifted(table_VD)), olmoe::kernels::embedding(ids, table_VD)));
  CHECK(relative_error(squared_norm(shifted(x)).cpu(), squared_norm(x)) < 1e-13);
}

TEST_CASE("GPU: rows wider than a block, and gradients in place", "[cuda]") {
  const auto dtype = GENERATE(from_range(kDtypes));
  CAPTURE(dtype);
  const int64_t N = 18, H = 72, d = 128, W = H * d, S = 4;
  const auto x = normal({N, W}, dtype, 1), dy = normal({N, W}, dtype, 2), w = normal({W}, dtype, 3);
  const auto table_Sd = rotary_table(S, d, 10000, dtype);
  const NormRotaryOperands in{x, w, table_Sd, 1.5}, gpu_in{gpu(x), gpu(w), gpu(table_Sd), 1.5};
  const auto cpu_out = norm_rotary(in, 1e-5);
  CHECK(close(norm_rotary(gpu_in, 1e-5).y_NW, cpu_out.y_NW, W));
  auto dx = at::empty({N, W}, x.options()), gpu_dx = gpu(dy);
  auto dw = at::zeros({W}, x.options().dtype(statistics_dtype(dtype))), gpu_dw = gpu(dw);
  norm_rotary_backward(dy, in, cpu_out.rstd_N, dx, dw);
  norm_rotary_backward(gpu_dx, gpu_in, gpu(cpu_out.rstd_N), gpu_dx, gpu_dw);
  CHECK(close(gpu_dx, dx, W));
  CHECK(close(gpu_dw, dw, N));
}

TEST_CASE("GPU: assignments without a row, and experts with most rows", "[cuda]") {
  const auto [N, K, E] =
      GENERATE(table<int64_t, int64_t, int64_t>({{4000, 8, 64}, {700, 3, 33}, {5, 2, 1000}, {1100, 1, 1}}));
  CAPTURE(N, K, E);
  auto ids = random_ids(E, {N, K}, 7);
  ids = at::where(random_ids(3, {N, K}, 8) == 0, at::full_like(ids, -1), ids);
  if (E > 8) ids = at::where(random_ids(3, {N, K}, 9) == 0, at::full_like(ids, E - 1), ids);
  const auto rows = (ids >= 0).sum().item<int64_t>();
  const auto p = sort_by_expert(ids, E, rows), q = sort_by_expert(gpu(ids), E, rows);
  CHECK(same(q.assignment_R, p.assignment_R));
  CHECK(same(q.row_NK, p.row_NK));
  CHECK(same(q.offsets_E, p.offsets_E));
  const auto y = normal({rows, 16}, at::kBFloat16, 3), x = normal({N, 16}, at::kBFloat16, 4);
  CHECK(same(combine_rows(gpu(y), q, gpu(x)), combine_rows(y, p, x)));
  CHECK(same(gather_rows(gpu(x), q), gather_rows(x, p)));
  const auto v = normal({rows}, at::kFloat, 5);
  CHECK(same(to_assignments(gpu(v), q), to_assignments(v, p)));
}

TEST_CASE("GPU: logits that are not finite still choose distinct experts", "[cuda]") {
  constexpr auto kInfinity = std::numeric_limits<float>::infinity();
  const int64_t E = 40;
  auto logits = normal({6, E}, at::kFloat, 1);
  logits[0].fill_(std::numeric_limits<float>::quiet_NaN());
  logits[1].fill_(-kInfinity);
  logits[2][3] = std::numeric_limits<float>::quiet_NaN();
  logits[3][5] = kInfinity;
  logits[4].narrow(0, 0, E - 1).fill_(-kInfinity);
  const auto ids = route(gpu(logits), E, 1, false, {}).ids_NK.cpu();
  for (int64_t t = 0; t < logits.size(0); ++t)
    CHECK(same_bits(std::get<0>(ids[t].to(at::kLong).sort()), at::arange(E)));
}

TEST_CASE("GPU: runs of one token that begin and end anywhere", "[cuda]") {
  const auto N = GENERATE(values<int64_t>({1, 15, 16, 17, 31, 32, 33, 48, 100, 777}));
  CAPTURE(N);
  at::Tensor ids = at::full({N}, 3, at::kLong);
  for (int64_t n = 0; n < N; ++n)
    if (n % 7 == 0 || n % 11 == 0) ids[n] = n % 7 == 0 ? 5 : 1;
  const auto dx = normal({N, 24}, at::kBFloat16, 1);
  auto dw = at::zeros({6, 24}), gpu_dw = gpu(dw);
  embedding_backward(dx, ids, dw);
  embedding_backward(gpu(dx), gpu(ids), gpu_dw);
  CHECK(close(gpu_dw, dw, N));
}

TEST_CASE("GPU: a chunk of tokens without a target, and targets at both ends", "[cuda]") {
  const int64_t N = 8, D = 16, V = 2000, chunk = 4;
  const auto x = normal({N, D}, at::kFloat, 1), w = normal({V, D}, at::kFloat, 2) * 0.1;
  auto targets = at::full({N}, olmoe::kIgnoredTarget, at::kLong);
  if (GENERATE(true, false)) {
    targets[1] = V - 1;
    targets[2] = 0;
  }
  const auto scale = at::full({}, 0.25, at::kDouble);
  const double tolerance = 4 * bound(at::kFloat, D + V);
  auto dw = at::zeros({V, D}), gpu_dw = gpu(dw);
  const auto loss = linear_cross_entropy(x, w, targets, chunk);
  CHECK(relative_error(linear_cross_entropy(gpu(x), gpu(w), gpu(targets), chunk).cpu(), loss) <= tolerance);
  const auto on_cpu = linear_cross_entropy_with_grads(scale, x, w, targets, chunk, dw);
  const auto on_gpu = linear_cross_entropy_with_grads(gpu(scale), gpu(x), gpu(w), gpu(targets), chunk, gpu_dw);
  CHECK(relative_error(on_gpu.loss.cpu(), loss) <= tolerance);
  CHECK(relative_error(on_gpu.dx_ND.cpu(), on_cpu.dx_ND) <= tolerance);
  CHECK(relative_error(gpu_dw.cpu(), dw) <= tolerance);
}
