#include "model/dense_ffn.h"

#include <ATen/ops/sigmoid.h>

#include <utility>

namespace olmoe {

DenseFfn::DenseFfn(const ModelConfig& config, std::string prefix, int64_t hidden, Gated gated)
    : config_(config), prefix_(std::move(prefix)), hidden_(hidden), gated_(gated) {}

StageState DenseFfn::state() {
  const int64_t D = config_.d_model;
  auto gate_up = shared_param(prefix_ + ".gate_up.weight", {2 * hidden_, D}, ParamRole::matrix, gate_up_2HD_);
  gate_up.parts = {{hidden_, hidden_}};
  StageState out{
      {std::move(gate_up), shared_param(prefix_ + ".down.weight", {D, hidden_}, ParamRole::output, down_DH_)}};
  if (gated_ == Gated::yes)
    out.params.push_back(shared_param(prefix_ + ".gate.weight", {1, D}, ParamRole::router, gate_1D_));
  return out;
}

at::Tensor DenseFfn::forward(const Normed& x, const at::Tensor& residual_ND) {
  const auto z_N2H = linear(x, gate_up_2HD_);
  if (gated_ == Gated::no) return swiglu_linear(z_N2H, down_DH_, residual_ND);
  const auto logits_N = linear(x, gate_1D_).flatten();  // down is linear: its input is multiplied, not its output
  const auto master = x.y_ND.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return swiglu_linear(z_N2H, down_DH_, residual_ND, at::sigmoid(logits_N.to(master)));
}

StageCost DenseFfn::cost(const CostContext& context) const {
  const int64_t tokens = context.tokens(), D = config_.d_model, H = hidden_;
  const auto N = static_cast<double>(tokens), elements = static_cast<double>(3 * D * H);
  const double gated = N * static_cast<double>(H * context.value_bytes);
  const int64_t half = tokens * H * context.value_bytes;
  StageCost out{
      .work = {linear_work("feed-forward", 2 * N * elements, N * static_cast<double>(2 * D + 3 * H), elements, context),
               memory_work("SwiGLU", 3 * gated, 6 * gated)}};
  out.saved = 2 * half;
  // Hidden rows, their gradient, that of gate and up.
  out.peaks = {{"backward of the last feed-forward", out.saved, 4 * half}};
  if (gated_ == Gated::no) return out;
  add_work(out.work, {linear_work("feed-forward", 2 * N * static_cast<double>(D), N * static_cast<double>(D + 1),
                                  static_cast<double>(D), context),
                      memory_work("SwiGLU", N * static_cast<double>(context.master_bytes),
                                  2 * N * static_cast<double>(context.master_bytes))});
  const int64_t gates = tokens * context.master_bytes;
  out.saved += gates;
  out.peaks = {{"backward of the last feed-forward", out.saved, 4 * half + gates}};
  return out;
}

}  // namespace olmoe
