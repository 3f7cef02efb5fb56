#include "kernels/attention.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <vector>

#include "kernels/attention_element.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cudnn/attention.h"

// Each block of queries is multiplied with all keys from the first that one of them sees up to its last query in one
// GEMM. Scores of keys that a query does not see are computed in vain, which is cheaper than more and smaller GEMMs.
// Each thread holds the scores of one block.
namespace olmoe::kernels {
namespace {

/// y [rows, d] = x, rounded; x is dense.
template <typename T>
void round_rows(int64_t rows, int64_t d, const Acc<T>* x, blas::Matrix<T> y) {
  auto body = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) y.data[i * y.row_stride + j] = rounded<T>(x[i * d + j]);
    }
  };
  vectorized(body, 0, rows);
}

/// Operands of one block of queries: [rows, d] each, and their log-sum-exp.
template <typename T>
struct BlockRows {
  blas::Matrix<const T> dy, y;
  const Acc<T>* lse;
};

/// In place, from scores and dprobs = dy v^T, both [rows, keys]: the probabilities, and the gradient of the unscaled
/// scores, probs * (dprobs - delta) * scale with delta = dy . y of the row.
template <typename T>
void score_gradients(Block block, int64_t d, Acc<T> scale, BlockRows<T> in, Rounded<T>& scores, Rounded<T>& dprobs) {
  const Acc<T>*const s_all = scores.exact.get(), *const dp_all = dprobs.exact.get();
  T *const p_all = scores.get(), *const ds_all = dprobs.get();
  auto rows = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const T *const dy = in.dy.data + i * in.dy.row_stride, *const y = in.y.data + i * in.y.row_stride;
      Acc<T> delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t j = 0; j < d; ++j) delta += load(dy[j]) * load(y[j]);
      const auto seen = block.visible(i);
      const int64_t key = seen.begin, visible = seen.end - key, row = i * block.keys + key;
      const Acc<T>*const s = s_all + row, *const dp = dp_all + row;
      T *const p = p_all + row, *const ds = ds_all + row;
      const Acc<T> lse = in.lse[i];
#pragma omp simd
      for (int64_t j = 0; j < visible; ++j) {
        const Acc<T> prob = fast_exp(s[j] - lse), dprob = dp[j];
        p[j] = rounded<T>(prob);
        ds[j] = rounded<T>(prob * (dprob - delta) * scale);
      }
      for (int64_t j = -key; j < 0; ++j) p[j] = ds[j] = rounded<T>(0);
      for (int64_t j = visible; j < block.keys - key; ++j) p[j] = ds[j] = rounded<T>(0);
    }
  };
  vectorized(rows, 0, block.rows);
}

struct Dims {
  int64_t S, H, G, d;
  Segments segments;
  int64_t kv_head(int64_t h) const { return h / (H / G); }
};

template <typename T>
struct Forward {
  const Dims& dims;
  Acc<T> scale;
  Heads<const T> q, k, v;
  Heads<T> y;
  Acc<T>* lse_BHS;

  /// Tasks [begin, end) of segments * H * blocks of a segment: blocks of queries.
  void operator()(int64_t begin, int64_t end) const {
    const int64_t S = dims.S, H = dims.H, d = dims.d;
    Rounded<T> scores(dims.segments.block_rows() * dims.segments.block_keys());
    const auto out = scratch<Acc<T>>(dims.segments.block_rows() * d);
    const auto sums = scratch<Acc<T>>(dims.segments.block_rows());
    int64_t first_task = 0;  // of a segment
    for (const auto& segment : dims.segments.list) {
      const int64_t blocks = segment.blocks(), b = segment.b;
      for (int64_t task = std::max(begin, first_task); task < std::min(end, first_task + H * blocks); ++task) {
        const int64_t h = (task - first_task) / blocks, g = dims.kv_head(h);
        const Block block = block_at(segment, (task - first_task) % blocks, dims.segments.window);
        blas::multiply({block.rows, block.keys, d}, scale, q.at(b, h, block.first), transposed(k.at(b, g, block.key)),
                       0, {scores.exact.get(), block.keys});
        exponentials<T>(block, scores.exact.get(), scores.get(), sums.get(), lse_BHS + (b * H + h) * S + block.first);
        blas::multiply({block.rows, d, block.keys}, 1, {scores.get(), block.keys}, v.at(b, g, block.key), 0,
                       {out.get(), d});
        divide_rows<T>(block.rows, d, out.get(), sums.get(), y.at(b, h, block.first));
      }
      first_task += H * blocks;
    }
  }
};

template <typename T>
struct Backward {
  const Dims& dims;
  Acc<T> scale;
  Heads<const T> dy, q, k, v, y;
  const Acc<T>* lse_BHS;
  Heads<T> dq, dk, dv;

  struct Memory {
    Rounded<T> scores, dprobs;
    Scratch<Acc<T>> dq, dk_Sd, dv_Sd;  ///< dk and dv of one segment
  };

  /// Writes dq of one block of queries and adds its contribution to dk and dv; `beta` 0 initialises these.
  void add_block(const Segment& segment, int64_t h, const Block& block, Acc<T> beta, Memory& memory) const {
    const int64_t b = segment.b, d = dims.d, g = dims.kv_head(h);
    const auto q_block = q.at(b, h, block.first), dy_block = dy.at(b, h, block.first);
    const auto k_block = k.at(b, g, block.key);
    const blas::Size scores{block.rows, block.keys, d}, keys{block.keys, d, block.rows};
    blas::multiply(scores, scale, q_block, transposed(k_block), 0, {memory.scores.exact.get(), block.keys});
    blas::multiply(scores, 1, dy_block, transposed(v.at(b, g, block.key)), 0, {memory.dprobs.exact.get(), block.keys});
    score_gradients<T>(block, d, scale,
                       {dy_block, y.at(b, h, block.first), lse_BHS + (b * dims.H + h) * dims.S + block.first},
                       memory.scores, memory.dprobs);
    const blas::Matrix<const T> probs{memory.scores.get(), block.keys}, dscores{memory.dprobs.get(), block.keys};
    const int64_t first_key = (block.key - segment.begin) * d;
    blas::multiply(keys, 1, transposed(probs), dy_block, beta, {memory.dv_Sd.get() + first_key, d});
    blas::multiply(keys, 1, transposed(dscores), q_block, beta, {memory.dk_Sd.get() + first_key, d});
    blas::multiply({block.rows, d, block.keys}, 1, dscores, k_block, 0, {memory.dq.get(), d});
    round_rows<T>(block.rows, d, memory.dq.get(), dq.at(b, h, block.first));
  }

  /// Tasks [begin, end) of segments * G: key/value heads, each with its query heads. The last block of queries comes
  /// first: without a window it covers all keys and so initialises all of dk and dv.
  void operator()(int64_t begin, int64_t end) const {
    const int64_t G = dims.G, d = dims.d, S = dims.segments.longest, rows = dims.segments.block_rows(),
                  keys = dims.segments.block_keys();
    Memory memory{Rounded<T>(rows * keys), Rounded<T>(rows * keys), scratch<Acc<T>>(rows * d), scratch<Acc<T>>(S * d),
                  scratch<Acc<T>>(S * d)};
    for (int64_t task = begin; task < end; ++task) {
      const auto& segment = dims.segments.list[static_cast<size_t>(task / G)];
      const int64_t b = segment.b, g = task % G, first_head = g * (dims.H / G), last = segment.blocks() - 1;
      const bool covers_all = block_at(segment, last, dims.segments.window).key == segment.begin;
      if (!covers_all)
        for (auto* sums : {memory.dk_Sd.get(), memory.dv_Sd.get()}) std::fill_n(sums, segment.length * d, Acc<T>{0});
      for (int64_t h = first_head; h < first_head + dims.H / G; ++h)
        for (int64_t i = last; i >= 0; --i)
          add_block(segment, h, block_at(segment, i, dims.segments.window),
                    covers_all && h == first_head && i == last ? 0 : 1, memory);
      round_rows<T>(segment.length, d, memory.dk_Sd.get(), dk.at(b, g, segment.begin));
      round_rows<T>(segment.length, d, memory.dv_Sd.get(), dv.at(b, g, segment.begin));
    }
  }
};

/// Throws Error unless the shapes match; returns the operands with dense rows.
Qkv checked(const Qkv& in) {
  const auto& [q, k, v] = in;
  ensure_dim(q, 4, "attention: q");
  ensure_dim(k, 4, "attention: k");
  ensure_same_device(k, q, "attention: k");
  ensure_same_device(v, q, "attention: v");
  ENSURE(k.sizes() == v.sizes() && q.size(0) == k.size(0) && q.size(1) == k.size(1) && q.size(3) == k.size(3),
         "attention: q, k and v must agree in batch, length and head width");
  ENSURE(k.size(2) > 0 && q.size(2) % k.size(2) == 0, "attention: {} key/value heads do not divide {} heads", k.size(2),
         q.size(2));
  return {dense_rows(q), dense_rows(k), dense_rows(v)};
}

void ensure_gradient(const at::Tensor& dx, const at::Tensor& x) {
  ensure_same_device(dx, x, "attention: a gradient");
  ENSURE(dx.sizes() == x.sizes() && dx.scalar_type() == x.scalar_type(),
         "attention: a gradient must have the shape and dtype of its operand");
  ENSURE(dx.size(3) <= 1 || dx.stride(3) == 1, "attention: rows of a gradient must be dense");
}

std::span<const int32_t> bounds_of(const AttentionMask& mask) {
  return {mask.bounds_cpu.const_data_ptr<int32_t>(), static_cast<size_t>(mask.bounds_cpu.numel())};
}

/// Throws Error for documents that do not divide the positions of one sequence.
void check_bounds(const AttentionMask& mask, const at::Tensor& q_BSHd) {
  ensure_same_device(mask.bounds, q_BSHd, "attention: bounds of documents");
  const at::Tensor& bounds = mask.bounds_cpu;
  ENSURE(bounds.defined() && bounds.is_cpu() && bounds.is_contiguous() && bounds.scalar_type() == at::kInt &&
             bounds.dim() == 1 && bounds.sizes() == mask.bounds.sizes() && mask.bounds.scalar_type() == at::kInt,
         "attention: bounds of documents must be contiguous, int32 [n+1], also on the CPU");
  const auto ends = bounds_of(mask);
  ENSURE(!ends.empty() && ends.front() == 0 && ends.back() == q_BSHd.size(1) &&
             std::ranges::adjacent_find(ends, std::ranges::greater_equal()) == ends.end() && q_BSHd.size(0) == 1,
         "attention: documents must divide the positions of one sequence, {} of {}", q_BSHd.size(1), q_BSHd.size(0));
}

void check_mask(const AttentionMask& mask, const at::Tensor& q_BSHd, const AttentionMethod& method) {
  if (mask.all()) return;
  ENSURE(mask.window >= 0, "attention: a window of {} keys", mask.window);
  ENSURE(!method.cudnn, "attention: cuDNN's kernel is used without window and documents alone");
  ENSURE(q_BSHd.is_cpu() || q_BSHd.scalar_type() != at::kFloat,
         "attention: on a GPU in fp32 there is no kernel with a window or documents");
  if (mask.bounds.defined()) check_bounds(mask, q_BSHd);
}

Dims dims_of(const Qkv& in, const AttentionMask& mask) {
  const auto& q = in.q_BSHd;
  std::span<const int32_t> bounds;
  if (mask.bounds.defined()) bounds = bounds_of(mask);
  return {q.size(1), q.size(2), in.k_BSGd.size(2), q.size(3), segments_of(q.size(0), q.size(1), bounds, mask.window)};
}

}  // namespace

AttentionMethod make_attention_method(AttentionKernel kernel, bool deterministic) {
  AttentionMethod method{deterministic, {}};
  if (kernel == AttentionKernel::cudnn) method.cudnn = cudnn::make_attention();
  return method;
}

bool cudnn_attention_built_in() { return cudnn::built_in(); }

// cuDNN's error text for compute capability 9.0: "hidden_dim should be less than or equal to 256 and ... multiple of
// 8".
bool cudnn_attention_fits(int64_t head_dim) { return head_dim % 8 == 0 && head_dim <= 256; }

AttentionOutput causal_attention(const Qkv& in, const AttentionMethod& method, const AttentionMask& mask) {
  const Qkv operands = checked(in);
  const at::Tensor &q = operands.q_BSHd, &k = operands.k_BSGd, &v = operands.v_BSGd;
  check_mask(mask, q, method);
  if (method.cudnn) return method.cudnn->forward(operands);
  if (q.is_cuda()) return cuda::causal_attention(operands, mask);
  const Dims dims = dims_of(in, mask);
  AttentionOutput out{at::empty(q.sizes(), q.options()),
                      at::empty({q.size(0), dims.H, dims.S}, q.options().dtype(acc_dtype(q.scalar_type())))};
  for_dtype(q.scalar_type(), [&]<typename T>() {
    const Forward<T> forward{dims,
                             score_scale<T>(dims.d),
                             read_heads<T>(q),
                             read_heads<T>(k),
                             read_heads<T>(v),
                             write_heads<T>(out.y_BSHd),
                             out.lse_BHS.template data_ptr<Acc<T>>()};
    at::parallel_for(0, dims.H * dims.segments.blocks, 1, forward);
  });
  return out;
}

void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, const AttentionMethod& method, const AttentionMask& mask) {
  const Qkv operands = checked(in);
  const at::Tensor &q = operands.q_BSHd, &k = operands.k_BSGd, &v = operands.v_BSGd;
  ensure_gradient(grads.q_BSHd, q);
  ensure_gradient(grads.k_BSGd, k);
  ensure_gradient(grads.v_BSGd, v);
  ENSURE(dy_BSHd.sizes() == q.sizes() && forward.y_BSHd.sizes() == q.sizes(),
         "attention: y and its gradient must have the shape of q");
  check_mask(mask, q, method);
  const at::Tensor dy = dense_rows(dy_BSHd);
  if (method.cudnn) return method.cudnn->backward(dy, operands, forward, grads, method.deterministic);
  if (q.is_cuda()) return cuda::causal_attention_backward(dy, operands, forward, grads, method.deterministic, mask);
  const Dims dims = dims_of(in, mask);
  for_dtype(q.scalar_type(), [&]<typename T>() {
    const Backward<T> backward{dims,
                               score_scale<T>(dims.d),
                               read_heads<T>(dy),
                               read_heads<T>(q),
                               read_heads<T>(k),
                               read_heads<T>(v),
                               read_heads<T>(forward.y_BSHd),
                               forward.lse_BHS.template const_data_ptr<Acc<T>>(),
                               write_heads<T>(grads.q_BSHd),
                               write_heads<T>(grads.k_BSGd),
                               write_heads<T>(grads.v_BSGd)};
    at::parallel_for(0, std::ssize(dims.segments.list) * dims.G, 1, backward);
  });
}

}  // namespace olmoe::kernels
