#include "trainer/inspection/weight_statistics.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>

#include "parallel/agreement.h"
#include "trainer/analysis/expert_weights.h"

namespace olmoe {
namespace {

/// Products of the rows of a parameter [E, ...], row e being expert e.
at::Tensor products_of(const ParamSource& weights, const WholeParam& param) {
  const int64_t experts = param.shape.front(), elements = param.numel / experts;
  const auto read = [&](int64_t expert, int64_t begin, at::Tensor out) {
    weights(param.name, expert * elements + begin, std::move(out));
  };
  return expert_products(read, experts, elements);
}

}  // namespace

std::vector<NamedArray> expert_similarity(const SavedModel& saved, Communicator& world) {
  std::vector<at::Tensor> experts, routers;
  agree(world, [&] {
    const auto weights = saved.weights();
    const auto size = static_cast<size_t>(world.size()), rank = static_cast<size_t>(world.rank());
    const auto add = [&](std::vector<at::Tensor>& layers, const WholeParam& param, bool to_last) {
      const int64_t E = param.shape.front();
      if (!to_last) layers.push_back(at::zeros({E, E}, at::kDouble));
      if ((layers.size() - 1) % size == rank) layers.back().add_(products_of(weights, param));
    };
    for (const auto& param : whole_params(saved.config.model)) {
      if (param.name.ends_with(".moe.router.weight")) add(routers, param, /*to_last=*/false);
      if (param.name.ends_with(".moe.experts.gate_up.weight")) add(experts, param, /*to_last=*/false);
      if (param.name.ends_with(".moe.experts.down.weight")) add(experts, param, /*to_last=*/true);
    }
  });
  std::vector<NamedArray> out;
  for (auto& [name, layers] : {std::pair("similarity.experts", experts), std::pair("similarity.routers", routers)}) {
    auto products = at::stack(layers);
    world.all_reduce(products);
    std::vector<at::Tensor> of_layers;
    for (int64_t l = 0; l < products.size(0); ++l) of_layers.push_back(cosines(products[l]));
    out.push_back({name, at::stack(of_layers)});
  }
  return out;
}

}  // namespace olmoe
