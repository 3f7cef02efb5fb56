// What every back end must do, checked on each rank against oracles that need no communication: a
// rank can draw what any other rank holds. All back ends meet the same bits, so they equal each
// other. Failures throw, since Catch's assertions belong to one thread.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "parallel/collectives/communicator.h"

namespace olmoe {

/// What `rank` contributes: numbers in (-1, 1), or integers in (-1000, 1000), that depend on all
/// arguments.
at::Tensor draw(int rank, at::IntArrayRef shape, at::ScalarType dtype, int seed = 0);
/// Throws unless both have the same dtype, shape and bits.
void check_same_bits(const at::Tensor& actual, const at::Tensor& expected, const std::string& what);
/// The message of the Error that `call` throws; throws if it throws none.
std::string error_of(const std::function<void()>& call);
/// Throws Error unless `text` contains `part`.
void check_contains(const std::string& text, const std::string& part);

struct CollectiveCase {
  const char* name;
  std::function<void(Communicator&, at::Device)> check;
};
/// Every case runs on every rank of a group of any size (on GPUs up to 16), with tensors on a
/// device that the group serves.
const std::vector<CollectiveCase>& collective_cases();

}  // namespace olmoe
