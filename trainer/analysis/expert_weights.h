// Shapes: L layers with experts, E experts of each, R of the pieces that rows are read in.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <vector>

namespace olmoe {

/// Elements [begin, begin + out.numel()) of all experts' rows, in fp32 or float64: row e is expert e.
using ReadExperts = std::function<void(int64_t expert, int64_t begin, at::Tensor out)>;

/// Float64 [E, E] of products of experts' rows of `elements` numbers each, which are read in pieces: memory is that of
/// `piece` elements of every expert.
at::Tensor expert_products(const ReadExperts& read, int64_t experts, int64_t elements, int64_t piece = 1 << 18);
/// Cosines of such rows: products [E, E] divided by both lengths; 0 where one is 0.
at::Tensor cosines(const at::Tensor& products_EE);

/// Experts whose largest down-projection output stands out: above the 99.5th percentile of all experts' and above a
/// tenth of the largest. Source: arXiv 2507.23279, without its restriction to the layers where massive activations
/// form.
struct SuperExperts {
  double percentile, tenth_of_largest;  ///< both thresholds
  struct Place {
    int64_t layer, expert;  ///< the layer counted among those with experts
    double peak;
  };
  std::vector<Place> found;  ///< by falling peak
};
SuperExperts super_experts(const at::Tensor& peaks_LE);

}  // namespace olmoe
