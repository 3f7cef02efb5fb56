#include "model/attention.h"

#include "kernels/rotary.h"
#include "support/catch.h"
#include "support/model_fixtures.h"

using namespace olmoe;

TEST_CASE("a table of rotary angles stays in memory when other lengths are asked for") {
  const auto model = test::tiny_model();
  RotaryTables tables(model);
  const auto tokens = at::zeros({24, model.d_model});
  const auto of_12 = tables.of(tokens, 12);  // as in a captured step
  const auto of_8 = tables.of(tokens, 8);    // an evaluation
  CHECK(of_8.size(0) == 8);
  CHECK(tables.of(tokens, 12).is_same(of_12));
  CHECK(tables.of(tokens, 8).is_same(of_8));
  CHECK(at::equal(of_12, kernels::rotary_table(12, model.head_dim(), model.rope_theta, at::kFloat)));
  const auto none = at::zeros({0, model.d_model});
  CHECK(tables.of(none, 1).numel() > model.head_dim());  // an empty micro-batch reuses a table
  CHECK(RotaryTables(model).of(none, 1).size(0) == 1);
}
