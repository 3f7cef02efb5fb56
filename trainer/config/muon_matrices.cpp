#include "trainer/config/muon_matrices.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "core/error.h"

namespace olmoe {
namespace {

/// Rows of the matrices that a parameter of `rows` has one below the other.
std::vector<int64_t> rows_of_matrices(int64_t rows, const RowParts& parts, QkvMatrices qkv) {
  const bool has_heads = parts.head_rows > 0;
  if (parts.rows.empty() || (has_heads && qkv == QkvMatrices::fused)) return {rows};
  if (!has_heads || qkv == QkvMatrices::split) return parts.rows;
  return std::vector<int64_t>(static_cast<size_t>(rows / parts.head_rows), parts.head_rows);
}

}  // namespace

std::vector<FlatMatrix> muon_matrices(std::span<const int64_t> shape, const RowParts& parts, QkvMatrices qkv,
                                      int64_t begin) {
  ENSURE(shape.size() >= 2, "a parameter of {} dimensions is no matrix", shape.size());
  const auto stack = shape.first(shape.size() - 2);
  const int64_t count = std::accumulate(stack.begin(), stack.end(), int64_t{1}, std::multiplies<>());
  const int64_t rows = shape[shape.size() - 2], cols = shape.back();
  const auto each = rows_of_matrices(rows, parts, qkv);
  ENSURE(std::accumulate(each.begin(), each.end(), int64_t{0}) == rows, "the matrices of {} rows do not add up to them",
         rows);
  std::vector<FlatMatrix> out;
  for (int64_t i = 0; i < count; ++i)
    for (const int64_t of_matrix : each) {
      out.push_back({begin, of_matrix, cols});
      begin += of_matrix * cols;
    }
  return out;
}

double lr_factor(LrAdjustment adjustment, int64_t rows, int64_t cols) {
  const auto r = static_cast<double>(rows), c = static_cast<double>(cols);
  return adjustment == LrAdjustment::original ? std::sqrt(std::max(1.0, r / c)) : 0.2 * std::sqrt(std::max(r, c));
}

}  // namespace olmoe
