#include "trainer/optimizer/shard_part.h"

#include "parallel/flat_layout.h"

namespace olmoe {

ShardPart part_of_shard(const ShardedUnit& unit, const std::function<bool(const std::string&, ParamRole)>& selects) {
  ShardPart part;
  for (const auto& param : unit.params())
    if (selects(param.name, param.role)) part.params.push_back(param);
  const bool all = part.params.size() == unit.params().size();
  std::vector<int64_t> numels;
  for (const auto& slice : unit.slices())
    if (selects(slice.name, slice.role)) {
      part.slices.push_back(slice);
      numels.push_back(slice.end - slice.begin);
    }
  const auto layout = lay_out_flat(numels, /*ranks=*/1);
  part.numel = all ? unit.shard.numel() : layout.numel;
  bool joins = false;  // the slice before in the shard is selected too
  size_t i = 0;
  for (const auto& slice : unit.slices()) {
    const bool selected = selects(slice.name, slice.role);
    if (selected) {
      const ShardPart::Range range{slice.offset, all ? slice.offset : layout.begins[i], numels[i]};
      part.slices[i++].offset = range.in_state;
      part.of_slices.push_back(range);
      if (!joins) part.joined.push_back(range);
      part.joined.back().numel = range.in_shard + range.numel - part.joined.back().in_shard;
    }
    joins = selected;
  }
  if (all) part.joined = {{0, 0, part.numel}};
  return part;
}

}  // namespace olmoe
