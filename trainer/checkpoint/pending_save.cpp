#include "trainer/checkpoint/pending_save.h"

#include <fmt/format.h>

#include <chrono>
#include <vector>

#include "core/files/safetensors.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/staged_bytes.h"

namespace olmoe {
namespace {

/// Tensor names inside a shard file: kind, parameter, first element.
std::string piece_name(const std::string& kind, const Slice& slice) {
  return fmt::format("{}:{}:{}", kind, slice.name, slice.begin);
}

/// A flat tensor for the writer. It is written from host memory directly, or copied from a GPU piece by piece while it
/// is written, so that a save needs host memory for one piece only.
safetensors::Item file_item(std::string name, const at::Tensor& flat, StagedBytes& staged) {
  const auto dtype = flat.scalar_type() == at::kDouble ? safetensors::Dtype::f64 : safetensors::Dtype::f32;
  safetensors::Item item{std::move(name), dtype, {flat.numel()}};
  if (flat.is_cpu())
    item.bytes = {static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()};
  else
    item.produce = [flat, &staged](const safetensors::Sink& sink) { staged.read(flat, sink); };
  return item;
}

Manifest::ShardFile write_shard(const SaveTarget& target, std::span<const StateTensor> state) {
  constexpr int64_t kPieceBytes = 64 << 20;
  StagedBytes staged(kPieceBytes);
  std::vector<safetensors::Item> items;
  for (const auto& tensor : state) {
    if (tensor.on_all_ranks && !target.saves_buffers) continue;
    for (const auto& slice : tensor.slices)
      items.push_back(file_item(piece_name(tensor.kind, slice),
                                tensor.flat.narrow(0, slice.offset, slice.end - slice.begin), staged));
  }
  const auto written =
      safetensors::write(target.temporary + "/" + target.shard, std::move(items), {{"format", "olmoe-shard"}});
  return {target.shard, written.size_bytes, written.xxh3_128};
}

}  // namespace

PendingSave::PendingSave(Manifest manifest, SaveTarget target, std::span<const StateTensor> state)
    : manifest_(std::move(manifest)), target_(std::move(target)) {
  std::packaged_task<Manifest::ShardFile()> write([&] {
    Manifest::ShardFile file;
    if (!target_.shard.empty())
      write_to_disk(target_.checkpoints, target_.needed_bytes, [&] { file = write_shard(target_, state); });
    return file;
  });
  shard_ = write.get_future().share();
  write();
}

bool PendingSave::done() const { return shard_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

}  // namespace olmoe
