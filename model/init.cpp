#include "model/init.h"

#include <ATen/Parallel.h>

#include <map>
#include <utility>

#include "core/error.h"
#include "core/random.h"
#include "model/transformer.h"

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
  std::map<std::string, ParamRole> roles;
  for (const auto& params : list_params(config))
    for (const auto& param : params) roles.emplace(param.name, param.role);
  return [std_dev = config.init_std, cutoff = config.init_cutoff, seed, roles = std::move(roles)](
             const std::string& name, int64_t begin, at::Tensor out) {
    ENSURE(out.is_contiguous() && out.device().is_cpu(), "initial values of {} go to a contiguous CPU tensor", name);
    const auto role = roles.find(name);
    ENSURE(role != roles.end(), "the model has no parameter {}", name);
    if (role->second == ParamRole::norm) {
      out.fill_(1.0);
    } else if (out.scalar_type() == at::kDouble) {
      fill_normal<double>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    } else {
      fill_normal<float>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    }
  };
}

}  // namespace olmoe
