#include "model/init.h"

#include <ATen/Parallel.h>

#include <cmath>
#include <limits>
#include <map>
#include <optional>
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

/// The initial values of one parameter: `constant`, or normals.
struct InitialValues {
  std::optional<double> constant;
  double std_dev = 0;
};

/// `block`: of the parameter, counted from 1; 0 outside of the blocks.
double std_dev_of(const ModelConfig& config, const Param& param, int64_t block) {
  const bool is_output = param.role == ParamRole::output;
  const auto inputs = static_cast<double>(param.global_shape.back()), depth = static_cast<double>(block);
  switch (config.init) {
    case InitMethod::mitchell:
      return 1 / std::sqrt(is_output ? 2 * depth * inputs : inputs);
    case InitMethod::full_megatron:
      if (param.role == ParamRole::head) return 1 / std::sqrt(inputs);
      [[fallthrough]];
    case InitMethod::megatron:
      return is_output ? config.init_std / std::sqrt(2.0 * static_cast<double>(config.num_layers)) : config.init_std;
    case InitMethod::normal:
      break;
  }
  return config.init_std;
}

InitialValues initial_values(const ModelConfig& config, const Param& param, int64_t block) {
  if (param.role == ParamRole::norm) return {1.0};
  if (param.role == ParamRole::bias) return {0.0};
  return {{}, std_dev_of(config, param, block)};
}

}  // namespace

ParamSource random_init(const ModelConfig& config, uint64_t seed) {
  std::map<std::string, InitialValues> all;
  const auto stages = list_params(config);
  for (size_t s = 0; s < stages.size(); ++s)  // the first stage and the last are no blocks
    for (const auto& param : stages[s])
      all.emplace(param.name, initial_values(config, param, s + 1 < stages.size() ? static_cast<int64_t>(s) : 0));
  const double cutoff = config.init_cutoff.value_or(std::numeric_limits<double>::infinity());
  return [cutoff, seed, all = std::move(all)](const std::string& name, int64_t begin, at::Tensor out) {
    ENSURE(out.is_contiguous() && out.device().is_cpu(), "initial values of {} go to a contiguous CPU tensor", name);
    const auto values = all.find(name);
    ENSURE(values != all.end(), "the model has no parameter {}", name);
    const auto& [constant, std_dev] = values->second;
    if (constant) {
      out.fill_(*constant);
    } else if (out.scalar_type() == at::kDouble) {
      fill_normal<double>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    } else {
      fill_normal<float>(TruncatedNormal(RandomStream(seed, name), cutoff), std_dev, begin, out);
    }
  };
}

}  // namespace olmoe
