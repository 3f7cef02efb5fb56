// Shapes: B sequences, S positions, H query heads, G key/value heads, d head width.
#include "kernels/cudnn/attention.h"

#include <ATen/cudnn/Handle.h>
#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <cudnn_frontend.h>

#include <cmath>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

#include "core/error.h"
#include "kernels/cudnn/layout.h"

// An execution plan is an engine for one shape, chosen by cuDNN's heuristics and compiled when the plan is built. The
// nondeterministic backward accumulates dq in fp32 by atomics. The deterministic one of cuDNN 9.19 stores the gradients
// of the scores, S x S in bf16 for each head, and multiplies them by the keys afterwards: its workspace grows with the
// square of S (model/attention_memory.cpp).
namespace olmoe::kernels::cudnn {
namespace {

namespace fe = cudnn_frontend;

/// Unique ids of the tensors of a plan.
enum Operand : int64_t { kQ = 1, kK, kV, kY, kLse, kDy, kDq, kDk, kDv };

void check(fe::error_t status, const char* what) {
  if (status.is_bad()) throw Error(fmt::format("attention: cuDNN cannot {}: {}", what, status.get_message()));
}

struct Plan {
  fe::graph::Graph graph;
  int64_t workspace_bytes = 0;

  Plan() {
    graph.set_io_data_type(fe::DataType_t::BFLOAT16)
        .set_intermediate_data_type(fe::DataType_t::FLOAT)
        .set_compute_data_type(fe::DataType_t::FLOAT);
  }
  using Described = std::shared_ptr<fe::graph::Tensor_attributes>;
  Described read(Operand operand, const at::Tensor& x) {
    auto described = fe::graph::Tensor_attributes().set_uid(operand);
    return graph.tensor(described.set_dim(x.sizes().vec()).set_stride(x.strides().vec()));
  }
  static void write(const Described& result, Operand operand, const at::Tensor& x) {
    result->set_output(true).set_uid(operand).set_dim(x.sizes().vec()).set_stride(x.strides().vec());
  }
};

float score_scale(const at::Tensor& q_BSHd) {
  return static_cast<float>(1 / std::sqrt(static_cast<double>(q_BSHd.size(3))));
}

void describe_forward(Plan& plan, const Qkv& in, const AttentionOutput& out) {
  const auto q = plan.read(kQ, as_BHSd(in.q_BSHd)), k = plan.read(kK, as_BHSd(in.k_BSGd)),
             v = plan.read(kV, as_BHSd(in.v_BSGd));
  const auto [y, lse] = plan.graph.sdpa(q, k, v,
                                        fe::graph::SDPA_attributes()
                                            .set_name("causal_attention")
                                            .set_generate_stats(true)
                                            .set_causal_mask(true)
                                            .set_attn_scale(score_scale(in.q_BSHd)));
  Plan::write(y, kY, as_BHSd(out.y_BSHd));
  Plan::write(lse, kLse, as_BHS1(out.lse_BHS));
  lse->set_data_type(fe::DataType_t::FLOAT);
}

void describe_backward(Plan& plan, const at::Tensor& dy_BSHd, const Qkv& in, const AttentionOutput& forward,
                       const Qkv& grads, bool deterministic) {
  const auto q = plan.read(kQ, as_BHSd(in.q_BSHd)), k = plan.read(kK, as_BHSd(in.k_BSGd)),
             v = plan.read(kV, as_BHSd(in.v_BSGd)), y = plan.read(kY, as_BHSd(forward.y_BSHd)),
             dy = plan.read(kDy, as_BHSd(dy_BSHd)), lse = plan.read(kLse, as_BHS1(forward.lse_BHS));
  lse->set_data_type(fe::DataType_t::FLOAT);
  const auto [dq, dk, dv] = plan.graph.sdpa_backward(q, k, v, y, dy, lse,
                                                     fe::graph::SDPA_backward_attributes()
                                                         .set_name("causal_attention_backward")
                                                         .set_causal_mask(true)
                                                         .set_attn_scale(score_scale(in.q_BSHd))
                                                         .set_deterministic_algorithm(deterministic));
  Plan::write(dq, kDq, as_BHSd(grads.q_BSHd));
  Plan::write(dk, kDk, as_BHSd(grads.k_BSGd));
  Plan::write(dv, kDv, as_BHSd(grads.v_BSGd));
}

void ensure_fits(const at::Tensor& q_BSHd) {
  ENSURE(q_BSHd.is_cuda() && q_BSHd.scalar_type() == at::kBFloat16 && cudnn_attention_fits(q_BSHd.size(3)),
         "attention: cuDNN's kernel needs bf16 on a GPU and a head width that is a multiple of 8 and at most 256; got "
         "width {} in {} on {}",
         q_BSHd.size(3), c10::toString(q_BSHd.scalar_type()), q_BSHd.device().str());
}

class PlannedAttention : public CudnnAttention {
 public:
  AttentionOutput forward(const Qkv& given) override {
    ensure_fits(given.q_BSHd);
    const c10::DeviceGuard device(given.q_BSHd.device());
    const Qkv in{operand(given.q_BSHd), operand(given.k_BSGd), operand(given.v_BSGd)};
    const auto& q = in.q_BSHd;
    const AttentionOutput out{at::empty(q.sizes(), q.options()),
                              at::empty({q.size(0), q.size(2), q.size(1)}, q.options().dtype(at::kFloat))};
    if (q.numel() == 0) return out;
    run({{kQ, q}, {kK, in.k_BSGd}, {kV, in.v_BSGd}, {kY, out.y_BSHd}, {kLse, out.lse_BHS}}, Key{},
        [&](Plan& plan) { describe_forward(plan, in, out); });
    return out;
  }

  void backward(const at::Tensor& given_dy, const Qkv& given, const AttentionOutput& forward, const Qkv& grads,
                bool deterministic) override {
    ensure_fits(given.q_BSHd);
    const c10::DeviceGuard device(given.q_BSHd.device());
    const Qkv in{operand(given.q_BSHd), operand(given.k_BSGd), operand(given.v_BSGd)};
    const at::Tensor dy = operand(given_dy);
    if (dy.numel() == 0) return;
    ENSURE(dy.size(1) > 1, "attention: cuDNN has no backward for sequences of one position");
    for (const auto* grad : {&grads.q_BSHd, &grads.k_BSGd, &grads.v_BSGd})
      ENSURE(is_aligned(*grad), "attention: rows of a gradient must start at multiples of 16 bytes for cuDNN");
    ENSURE(forward.y_BSHd.is_contiguous() && forward.lse_BHS.is_contiguous(),
           "attention: cuDNN's backward needs the contiguous results of its forward");
    run({{kQ, in.q_BSHd},
         {kK, in.k_BSGd},
         {kV, in.v_BSGd},
         {kY, forward.y_BSHd},
         {kLse, forward.lse_BHS},
         {kDy, dy},
         {kDq, grads.q_BSHd},
         {kDk, grads.k_BSGd},
         {kDv, grads.v_BSGd}},
        Key{deterministic}, [&](Plan& plan) { describe_backward(plan, dy, in, forward, grads, deterministic); });
  }

  int64_t plans() const override { return std::ssize(plans_); }

 private:
  using Key = std::vector<int64_t>;
  using Tensors = std::vector<std::pair<Operand, at::Tensor>>;

  /// Executes the plan for these sizes and strides; `describe` describes its graph if it is not built yet.
  template <typename Describe>
  void run(const Tensors& tensors, Key key, const Describe& describe) {
    key.push_back(tensors.front().second.device().index());
    std::unordered_map<int64_t, void*> memory;
    for (const auto& [operand, x] : tensors) {
      key.insert(key.end(), x.sizes().begin(), x.sizes().end());
      key.insert(key.end(), x.strides().begin(), x.strides().end());
      memory[operand] = x.data_ptr();
    }
    const auto handle = at::native::getCudnnHandle();  // per thread, on the current stream
    auto& plan = plans_[key];
    if (!plan) {
      auto made = std::make_unique<Plan>();
      describe(*made);
      check(made->graph.build(handle, {fe::HeurMode_t::A}), "build a plan for this shape");
      check(made->graph.get_workspace_size(made->workspace_bytes), "report the workspace of a plan");
      plan = std::move(made);
    }
    const auto workspace = at::empty({plan->workspace_bytes}, tensors.front().second.options().dtype(at::kByte));
    check(plan->graph.execute(handle, memory, workspace.data_ptr()), "compute attention");
  }

  std::map<Key, std::unique_ptr<Plan>> plans_;
};

}  // namespace

bool built_in() { return true; }

c10::intrusive_ptr<CudnnAttention> make_attention() {
  ENSURE(cudnnGetVersion() >= CUDNN_VERSION,
         "attention: LibTorch has loaded cuDNN {}, but this program needs at least {}", cudnnGetVersion(),
         CUDNN_VERSION);
  return c10::make_intrusive<PlannedAttention>();
}

}  // namespace olmoe::kernels::cudnn
