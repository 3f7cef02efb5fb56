#include "trainer/checkpoint/state_guard.h"

#include <ATen/ops/cat.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include "core/error.h"
#include "kernels/adamw.h"
#include "parallel/agreement.h"
#include "parallel/collectives/host_tensor.h"

namespace olmoe {
namespace {

constexpr double kLargest = 1e150;  // float64 holds the sum of 10^8 such squares

/// "weight blocks.0.norm.weight, element 3: -nan".
std::string first_bad_value(const StateTensor& tensor) {
  for (const auto& slice : tensor.slices) {
    const auto part = tensor.flat.narrow(0, slice.offset, slice.end - slice.begin).cpu();
    const auto bad = (part.abs() < kLargest).logical_not().nonzero();  // NaN is not below anything
    if (bad.numel() == 0) continue;
    const auto at = bad[0].item<int64_t>();
    return fmt::format("{} {}, element {}: {}", tensor.kind, slice.name, slice.begin + at, part[at].item<double>());
  }
  return fmt::format("{} values that are too large to be squared", tensor.kind);
}

/// The first values of this rank that are not finite; empty: none. `norms_T`: squared norms of the T tensors.
std::string problem_of(std::span<const StateTensor> state, const at::Tensor& norms_T) {
  std::string first;
  int64_t bad = 0;
  for (size_t i = 0; i < state.size(); ++i) {
    if (std::isfinite(norms_T.const_data_ptr<double>()[i])) continue;
    if (first.empty()) first = first_bad_value(state[i]);
    ++bad;
  }
  return bad == 0 ? first : fmt::format("{} ({} of {} tensors have such values)", first, bad, state.size());
}

}  // namespace

namespace {

std::string refusal(const std::string& what, const std::string& problem, const std::string& advice) {
  return fmt::format("{}: not finite: {}. {}", what, problem, advice);
}

/// Whether all squares are finite in the dtype of ensure_finite()'s sums. Vectorizes: no early end, no exception.
template <class T>
bool all_finite(const T* values, int64_t count) {
  constexpr T kBound = std::is_same_v<T, float> ? std::numeric_limits<T>::max() : static_cast<T>(kLargest);
  int64_t bad = 0;
  for (int64_t i = 0; i < count; ++i) bad += !(std::abs(values[i]) <= kBound);
  return bad == 0;
}

}  // namespace

void ensure_finite_here(std::span<const StateTensor> state, const std::string& what, const std::string& advice) {
  for (const auto& tensor : state)
    for (const auto& slice : tensor.slices) {
      const auto part = tensor.flat.narrow(0, slice.offset, slice.end - slice.begin);
      const bool good = part.scalar_type() == at::kFloat ? all_finite(part.const_data_ptr<float>(), part.numel())
                                                         : all_finite(part.const_data_ptr<double>(), part.numel());
      if (!good) throw Error(refusal(what, first_bad_value(tensor), advice), ExitCode::non_finite);
    }
}

void ensure_finite(Communicator& world, std::span<const StateTensor> state, const std::string& what,
                   const std::string& advice) {
  // A sum of squares is finite if all values are, and needs no memory. In float64, squares of float32 cannot overflow.
  std::vector<at::Tensor> norms;
  for (const auto& tensor : state) norms.push_back(kernels::squared_norm(tensor.flat).view(1));
  const auto norms_T = fetch(at::cat(norms), world);
  agree(world, [&] {
    if (const auto problem = problem_of(state, norms_T); !problem.empty())
      throw Error(refusal(what, problem, advice), ExitCode::non_finite);
  });
}

}  // namespace olmoe
