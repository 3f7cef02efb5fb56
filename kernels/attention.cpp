#include "kernels/attention.h"

#include <ATen/ops/empty.h>

#include <cmath>
#include <limits>
#include <memory>
#include <new>

#include "core/integers.h"
#include "kernels/blas.h"
#include "kernels/cuda_kernels.h"
#include "kernels/cudnn/attention.h"
#include "kernels/rows/dtypes.h"
#include "kernels/rows/row_loop.h"

// Each block of queries is multiplied with all keys up to its last query in one GEMM. Scores of later keys are computed
// in vain, which is cheaper than more and smaller GEMMs. Each thread holds the scores of one block.
namespace olmoe::kernels {
namespace {

constexpr int64_t kQueryBlock = 64;

/// A [B, S, heads, d] tensor, accessed one head at a time.
template <typename T>
struct Heads {
  T* data;
  int64_t batch_stride, position_stride, head_stride;

  /// Head h of sequence b from `position`, as a matrix [S - position, d].
  blas::Matrix<T> at(int64_t b, int64_t h, int64_t position = 0) const {
    return {data + b * batch_stride + position * position_stride + h * head_stride, position_stride};
  }
};
template <typename T>
Heads<const T> read_heads(const at::Tensor& x) {
  return {x.const_data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}
template <typename T>
Heads<T> write_heads(const at::Tensor& x) {
  return {x.data_ptr<T>(), x.stride(0), x.stride(1), x.stride(2)};
}

/// The alignment of tensors: MKL is bit-identical only for operands of equal alignment.
constexpr std::align_val_t kAlignment{64};
struct Free {
  void operator()(void* memory) const { ::operator delete[](memory, kAlignment); }
};
template <typename T>
using Scratch = std::unique_ptr<T[], Free>;
template <typename T>
Scratch<T> scratch(int64_t elements) {
  return Scratch<T>(static_cast<T*>(::operator new[](elements * sizeof(T), kAlignment)));
}

/// Values in Acc<T> and a copy rounded to T; one buffer if T is Acc<T>.
template <typename T>
struct Rounded {
  explicit Rounded(int64_t elements) : exact(scratch<Acc<T>>(elements)) {
    if constexpr (!std::is_same_v<T, Acc<T>>) own = scratch<T>(elements);
  }
  T* get() {
    if constexpr (std::is_same_v<T, Acc<T>>)
      return exact.get();
    else
      return own.get();
  }
  Scratch<Acc<T>> exact;
  Scratch<T> own;
};

/// A block of queries: positions [first, first + rows), which attend to `keys` = first + rows keys.
struct Block {
  int64_t first, rows, keys;
};
Block block_at(int64_t index, int64_t S) {
  const int64_t first = index * kQueryBlock, rows = std::min(kQueryBlock, S - first);
  return {first, rows, first + rows};
}

/// exps [rows, keys] = exp(score - row maximum), zero above the diagonal; for each row also their sum and the
/// log-sum-exp of its scores.
template <typename T>
void exponentials(Block block, const Acc<T>* scores, T* exps, Acc<T>* sums, Acc<T>* lse) {
  auto rows = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Acc<T>* const s = scores + i * block.keys;
      T* const p = exps + i * block.keys;
      const int64_t visible = block.first + i + 1;
      Acc<T> largest = s[0], sum = 0;
#pragma omp simd reduction(max : largest)
      for (int64_t j = 0; j < visible; ++j) largest = s[j] > largest ? s[j] : largest;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = 0; j < visible; ++j) {
        p[j] = rounded<T>(fast_exp(s[j] - largest));
        sum += load(p[j]);
      }
      for (int64_t j = visible; j < block.keys; ++j) p[j] = rounded<T>(0);
      sums[i] = sum;
      lse[i] = largest + std::log(sum);
    }
  };
  vectorized(rows, 0, block.rows);
}

/// y [rows, d] = x / sums, rounded; x is dense.
template <typename T>
void divide_rows(int64_t rows, int64_t d, const Acc<T>* x, const Acc<T>* sums, blas::Matrix<T> y) {
  auto body = [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Acc<T> scale = 1 / sums[i];
#pragma omp simd
      for (int64_t j = 0; j < d; ++j) y.data[i * y.row_stride + j] = rounded<T>(x[i * d + j] * scale);
    }
  };
  vectorized(body, 0, rows);
}

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
      const Acc<T>*const s = s_all + i * block.keys, *const dp = dp_all + i * block.keys;
      T *const p = p_all + i * block.keys, *const ds = ds_all + i * block.keys;
      const Acc<T> lse = in.lse[i];
      const int64_t visible = block.first + i + 1;
#pragma omp simd
      for (int64_t j = 0; j < visible; ++j) {
        const Acc<T> prob = fast_exp(s[j] - lse), dprob = dp[j];
        p[j] = rounded<T>(prob);
        ds[j] = rounded<T>(prob * (dprob - delta) * scale);
      }
      for (int64_t j = visible; j < block.keys; ++j) p[j] = ds[j] = rounded<T>(0);
    }
  };
  vectorized(rows, 0, block.rows);
}

struct Dims {
  int64_t B, S, H, G, d;
  int64_t blocks() const { return ceil_div(S, kQueryBlock); }
  int64_t block_rows() const { return std::min(S, kQueryBlock); }
  int64_t kv_head(int64_t h) const { return h / (H / G); }
};

template <typename T>
blas::Matrix<const T> transposed(blas::Matrix<const T> x) {
  x.transposed = true;
  return x;
}

template <typename T>
struct Forward {
  Dims dims;
  Acc<T> scale;
  Heads<const T> q, k, v;
  Heads<T> y;
  Acc<T>* lse_BHS;

  /// Tasks [begin, end) of B * H * blocks: blocks of queries.
  void operator()(int64_t begin, int64_t end) const {
    const auto [B, S, H, G, d] = dims;
    Rounded<T> scores(dims.block_rows() * S);
    const auto out = scratch<Acc<T>>(dims.block_rows() * d);
    const auto sums = scratch<Acc<T>>(dims.block_rows());
    for (int64_t task = begin; task < end; ++task) {
      const int64_t head = task / dims.blocks(), b = head / H, h = head % H, g = dims.kv_head(h);
      const Block block = block_at(task % dims.blocks(), S);
      blas::multiply({block.rows, block.keys, d}, scale, q.at(b, h, block.first), transposed(k.at(b, g)), 0,
                     {scores.exact.get(), block.keys});
      exponentials<T>(block, scores.exact.get(), scores.get(), sums.get(), lse_BHS + head * S + block.first);
      blas::multiply({block.rows, d, block.keys}, 1, {scores.get(), block.keys}, v.at(b, g), 0, {out.get(), d});
      divide_rows<T>(block.rows, d, out.get(), sums.get(), y.at(b, h, block.first));
    }
  }
};

template <typename T>
struct Backward {
  Dims dims;
  Acc<T> scale;
  Heads<const T> dy, q, k, v, y;
  const Acc<T>* lse_BHS;
  Heads<T> dq, dk, dv;

  struct Memory {
    Rounded<T> scores, dprobs;
    Scratch<Acc<T>> dq, dk_Sd, dv_Sd;
  };

  /// Writes dq of one block of queries and adds its contribution to dk and dv; `beta` 0 initialises these.
  void add_block(int64_t b, int64_t h, Block block, Acc<T> beta, Memory& memory) const {
    const auto [B, S, H, G, d] = dims;
    const int64_t g = dims.kv_head(h);
    const auto q_block = q.at(b, h, block.first), dy_block = dy.at(b, h, block.first);
    const blas::Size scores{block.rows, block.keys, d}, keys{block.keys, d, block.rows};
    blas::multiply(scores, scale, q_block, transposed(k.at(b, g)), 0, {memory.scores.exact.get(), block.keys});
    blas::multiply(scores, 1, dy_block, transposed(v.at(b, g)), 0, {memory.dprobs.exact.get(), block.keys});
    score_gradients<T>(block, d, scale, {dy_block, y.at(b, h, block.first), lse_BHS + (b * H + h) * S + block.first},
                       memory.scores, memory.dprobs);
    const blas::Matrix<const T> probs{memory.scores.get(), block.keys}, dscores{memory.dprobs.get(), block.keys};
    blas::multiply(keys, 1, transposed(probs), dy_block, beta, {memory.dv_Sd.get(), d});
    blas::multiply(keys, 1, transposed(dscores), q_block, beta, {memory.dk_Sd.get(), d});
    blas::multiply({block.rows, d, block.keys}, 1, dscores, k.at(b, g), 0, {memory.dq.get(), d});
    round_rows<T>(block.rows, d, memory.dq.get(), dq.at(b, h, block.first));
  }

  /// Tasks [begin, end) of B * G: key/value heads, each with its query heads. The last block of queries comes first,
  /// since it covers all keys and so initialises all of dk and dv.
  void operator()(int64_t begin, int64_t end) const {
    const int64_t S = dims.S, G = dims.G, d = dims.d, rows = dims.block_rows();
    Memory memory{Rounded<T>(rows * S), Rounded<T>(rows * S), scratch<Acc<T>>(rows * d), scratch<Acc<T>>(S * d),
                  scratch<Acc<T>>(S * d)};
    for (int64_t task = begin; task < end; ++task) {
      const int64_t b = task / G, g = task % G, first_head = g * (dims.H / G);
      for (int64_t h = first_head; h < first_head + dims.H / G; ++h)
        for (int64_t i = dims.blocks() - 1; i >= 0; --i)
          add_block(b, h, block_at(i, S), h == first_head && i == dims.blocks() - 1 ? 0 : 1, memory);
      round_rows<T>(S, d, memory.dk_Sd.get(), dk.at(b, g));
      round_rows<T>(S, d, memory.dv_Sd.get(), dv.at(b, g));
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

Dims dims_of(const Qkv& in) {
  const auto& q = in.q_BSHd;
  return {q.size(0), q.size(1), q.size(2), in.k_BSGd.size(2), q.size(3)};
}

template <typename T>
Acc<T> score_scale(int64_t d) {
  return 1 / std::sqrt(static_cast<Acc<T>>(d));
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

AttentionOutput causal_attention(const Qkv& in, const AttentionMethod& method) {
  const Qkv operands = checked(in);
  const at::Tensor &q = operands.q_BSHd, &k = operands.k_BSGd, &v = operands.v_BSGd;
  if (method.cudnn) return method.cudnn->forward(operands);
  if (q.is_cuda()) return cuda::causal_attention(operands);
  const Dims dims = dims_of(in);
  AttentionOutput out{at::empty(q.sizes(), q.options()),
                      at::empty({dims.B, dims.H, dims.S}, q.options().dtype(acc_dtype(q.scalar_type())))};
  for_dtype(q.scalar_type(), [&]<typename T>() {
    const Forward<T> forward{dims,
                             score_scale<T>(dims.d),
                             read_heads<T>(q),
                             read_heads<T>(k),
                             read_heads<T>(v),
                             write_heads<T>(out.y_BSHd),
                             out.lse_BHS.template data_ptr<Acc<T>>()};
    at::parallel_for(0, dims.B * dims.H * dims.blocks(), 1, forward);
  });
  return out;
}

void causal_attention_backward(const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                               const Qkv& grads, const AttentionMethod& method) {
  const Qkv operands = checked(in);
  const at::Tensor &q = operands.q_BSHd, &k = operands.k_BSGd, &v = operands.v_BSGd;
  ensure_gradient(grads.q_BSHd, q);
  ensure_gradient(grads.k_BSGd, k);
  ensure_gradient(grads.v_BSGd, v);
  ENSURE(dy_BSHd.sizes() == q.sizes() && forward.y_BSHd.sizes() == q.sizes(),
         "attention: y and its gradient must have the shape of q");
  const Dims dims = dims_of(in);
  const at::Tensor dy = dense_rows(dy_BSHd);
  if (method.cudnn) return method.cudnn->backward(dy, operands, forward, grads, method.deterministic);
  if (q.is_cuda()) return cuda::causal_attention_backward(dy, operands, forward, grads, method.deterministic);
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
    at::parallel_for(0, dims.B * dims.G, 1, backward);
  });
}

}  // namespace olmoe::kernels
