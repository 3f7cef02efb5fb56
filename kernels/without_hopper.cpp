// Replaces kernels/hopper/*.cu in a build without code for compute capability 9.0: every kernel throws Error.
#include "core/error.h"
#include "kernels/hopper/fused.h"

namespace olmoe::kernels::hopper {
namespace {

[[noreturn]] void refuse() {
  throw Error("fused experts: this program was built without code for compute capability 9.0");
}

}  // namespace

bool built_in() { return false; }
void up_projection(const at::Tensor&, const ScoredRows&, const at::Tensor&, ExpertsUp&) { refuse(); }
void down_projection(const at::Tensor&, const Permutation&, const at::Tensor&, at::Tensor&) { refuse(); }
void up_input_grad(const at::Tensor&, const Permutation&, const at::Tensor&, at::Tensor&) { refuse(); }
void down_projection_backward(const at::Tensor&, const ScoredRows&, const at::Tensor&, const at::Tensor&,
                              SwigluGrads&) {
  refuse();
}
void down_weight_grad(const at::Tensor&, const Permutation&, const at::Tensor&, at::Tensor&, GradWrite) { refuse(); }
void up_weight_grad(const at::Tensor&, const Permutation&, const at::Tensor&, at::Tensor&, GradWrite) { refuse(); }

}  // namespace olmoe::kernels::hopper
