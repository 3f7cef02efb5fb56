#include "model/block/block_variants.h"

namespace olmoe {

std::vector<std::string> problems_of(const BlockVariants& variants) {
  std::vector<std::string> out;
  if (variants.norm == NormKind::rms && variants.norm_affine == NormAffine::weight_and_bias)
    out.emplace_back("norm_affine: weight_and_bias needs norm: layer, RMSNorm has no bias");
  return out;
}

}  // namespace olmoe
