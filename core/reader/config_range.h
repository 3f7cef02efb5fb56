#pragma once
#include <cstdint>
#include <limits>

/// Ranges of the numbers in a config.
namespace olmoe {

/// The values that an integer may have, both ends included.
struct IntegerRange {
  int64_t least;
  int64_t most = std::numeric_limits<int32_t>::max();
};

/// The values that a number may have.
struct NumberRange {
  double least = -std::numeric_limits<double>::infinity(), most = std::numeric_limits<double>::infinity();
  bool least_excluded = false, most_excluded = false;
  bool contains(double value) const {
    return (least_excluded ? value > least : value >= least) && (most_excluded ? value < most : value <= most);
  }
};
/// Numbers from `least` to `most`, both included.
constexpr NumberRange in(double least, double most) { return {least, most}; }
/// Numbers from `least` on and below `most`.
constexpr NumberRange in_below(double least, double most) { return {least, most, false, true}; }
constexpr NumberRange at_least(double least) { return {.least = least}; }
/// Numbers greater than `bound`, up to `most`.
constexpr NumberRange above(double bound, double most = std::numeric_limits<double>::infinity()) {
  return {bound, most, true, false};
}

}  // namespace olmoe
