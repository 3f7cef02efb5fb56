#pragma once
#include <cstdint>
#include <vector>

namespace olmoe {

/// What a parameter is in the model, whatever its name and shape: initial values, weight decay and the choice of an
/// optimizer go by it. output: the matrix of a branch that makes what is added to the residual.
enum class ParamRole { matrix, output, norm, bias, embedding, router, head };

/// The matrices that a parameter [..., rows, cols] has one below the other, such as gate and up.
struct RowParts {
  std::vector<int64_t> rows = {};  ///< of each, adding up to the parameter's; empty: it is one matrix
  int64_t head_rows = 0;           ///< of an attention head, which divides each of them; 0: they have no heads
};

}  // namespace olmoe
