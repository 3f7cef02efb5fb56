#include "model/stage.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace olmoe {

Param shared_param(std::string name, std::vector<int64_t> shape, ParamRole role, at::Tensor& slot) {
  return {.name = std::move(name),
          .shape = shape,
          .global_shape = shape,
          .first = 0,
          .axis = Axis::shard,
          .slot = &slot,
          .role = role};
}

void StageState::add(StageState layer) {
  std::ranges::move(layer.params, std::back_inserter(params));
  std::ranges::move(layer.buffers, std::back_inserter(buffers));
}

}  // namespace olmoe
