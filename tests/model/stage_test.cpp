// What layers declare of themselves, and stages pass on.
#include "model/stage.h"

#include <ATen/ops/zeros.h>

#include "support/catch.h"

namespace {

using namespace olmoe;

/// A layer with a weight and a buffer.
struct LayerWithBuffer {
  std::string name;
  at::Tensor weight = {}, bias = at::zeros({3});
  StageState state() {
    return {{shared_param(name + ".weight", {2, 3}, ParamRole::matrix, weight)}, {{name + ".bias", &bias}}};
  }
};

}  // namespace

TEST_CASE("a stage passes on parameters and buffers of its layers in one call, in order") {
  LayerWithBuffer first{"a"}, second{"b"};
  at::Tensor norm;
  StageState state{{shared_param("norm", {3}, ParamRole::norm, norm)}};
  CHECK(state.buffers.empty());
  state.add(first.state());
  state.add({});
  state.add(second.state());
  REQUIRE(state.params.size() == 3);
  CHECK(state.params[0].name == "norm");
  CHECK(state.params[1].name == "a.weight");
  CHECK(state.params[2].slot == &second.weight);
  REQUIRE(state.buffers.size() == 2);
  CHECK(state.buffers[0].name == "a.bias");
  CHECK(state.buffers[1].tensor == &second.bias);
}
