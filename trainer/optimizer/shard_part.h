#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "parallel/sharded_unit.h"

namespace olmoe {

/// What is selected of a unit, and where the state of this rank's slices of it lies in a flat tensor of its own: as in
/// the shard where all of the unit is selected, else one slice after another, each aligned as parameters are.
struct ShardPart {
  /// Elements [in_shard, in_shard + numel) of the shard, with state from element in_state on.
  struct Range {
    int64_t in_shard, in_state, numel;
  };
  std::vector<UnitParam> params;  ///< selected ones, all ranks together
  std::vector<Slice> slices;      ///< selected ones of this rank; `offset` is that of their state
  std::vector<Range> of_slices;   ///< of each slice
  std::vector<Range> joined;      ///< the same with neighbours as one range, the zeros of padding between them included
  int64_t numel = 0;              ///< of the state
};

/// The parameters of `unit` that `selects` is true for, asked by name and role.
ShardPart part_of_shard(const ShardedUnit& unit, const std::function<bool(const std::string&, ParamRole)>& selects);

}  // namespace olmoe
