#include "model/init.h"

#include <ATen/Parallel.h>

#include "core/error.h"
#include "core/random.h"

namespace olmoe {
namespace {

constexpr int64_t kGrain = 1 << 14;

template <class Scalar>
void fill_normal(const TruncatedNormal& normal, double std_dev, int64_t begin, at::Tensor out) {
  auto* values = out.mutable_data_ptr<Scalar>();
  at::parallel_for(0, out.numel(), kGrain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) {
      values[i] = static_cast<Scalar>(std_dev * normal(static_cast<uint64_t>(begin + i)));
    }
  });
}

}  // namespace

ParamSource random_init(const ModelConfig& config, uint64_t seed) {
  return [std_dev = config.init_std, cutoff = config.init_cutoff, seed](const std::string& name, int64_t begin,
                                                                        at::Tensor out) {
    ENSURE(out.is_contiguous() && out.device().is_cpu(), "initial values of {} go to a contiguous CPU tensor", name);
    if (name.find("norm.weight") != std::string::npos) {
      out.fill_(1.0);
    } else if (out.scalar_type() == at::kDouble) {
      fill_normal<double>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    } else {
      fill_normal<float>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    }
  };
}

}  // namespace olmoe
