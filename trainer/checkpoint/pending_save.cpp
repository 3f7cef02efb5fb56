#include "trainer/checkpoint/pending_save.h"

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <system_error>
#include <vector>

#include "core/files/safetensors.h"
#include "core/log.h"
#include "core/process/fault_point.h"
#include "trainer/checkpoint/disk_errors.h"
#include "trainer/checkpoint/staged_bytes.h"
#include "trainer/checkpoint/state_guard.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

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

/// Makes an item pass the point "shard.half" before it is written.
void pass_fault_point(safetensors::Item& item, int rank) {
  item.produce = [bytes = item.bytes, produce = item.produce, rank](const safetensors::Sink& sink) {
    fault_point("shard.half", rank);
    produce ? produce(sink) : sink(bytes);
  };
  item.bytes = {};
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
  if (!items.empty()) pass_fault_point(items[items.size() / 2], target.rank);
  fault_point("shard.first_tensor", target.rank);
  const auto written =
      safetensors::write(target.temporary + "/" + target.shard, std::move(items), {{"format", "olmoe-shard"}});
  fault_point("shard.written", target.rank);
  return {target.shard, written.size_bytes, written.header_bytes, written.header_hash, written.block_hashes};
}

/// Runs `work` now, or with `in_background` on a thread of its own, if the system gives one. The result's destructor
/// waits for that.
template <class Work>
auto start(bool in_background, Work work) {
  try {
    if (in_background) return std::async(std::launch::async, work);
  } catch (const std::system_error& error) {
    log::warn("no thread to save beside training ({}): training waits", error.what());
  }
  std::packaged_task<decltype(work())()> task(std::move(work));
  task();
  return task.get_future();
}

}  // namespace

PendingSave::PendingSave(Manifest manifest, SaveTarget target, std::span<const StateTensor> state,
                         StateSnapshot* snapshot)
    : manifest_(std::move(manifest)), target_(std::move(target)), snapshot_(snapshot) {
  if (target_.shard.empty()) snapshot_ = nullptr;  // it writes nothing
  if (snapshot_) snapshot_->begin(state);
  shard_ = start(snapshot_ != nullptr, [this, state] {
             if (target_.shard.empty()) return Manifest::ShardFile{};
             fault_point("save.copying", target_.rank);
             const auto values = snapshot_ ? snapshot_->complete() : state;
             fault_point("save.copied", target_.rank);
             if (snapshot_) ensure_finite_here(values, fmt::format("step {}", manifest_.step), kDivergedAdvice);
             Manifest::ShardFile file;
             write_to_disk(target_.checkpoints, target_.needed_bytes, [&] {
               fs::create_directories(target_.temporary);
               fault_point("shard.folder", target_.rank);
               file = write_shard(target_, values);
             });
             return file;
           }).share();
}

bool PendingSave::done() const { return shard_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

void PendingSave::wait_until_copied() {
  if (snapshot_) snapshot_->wait_until_copied();
}

void PendingSave::begin_commit(std::function<void()> work) { commit_ = start(snapshot_ != nullptr, std::move(work)); }

bool PendingSave::commit_done() const { return commit_.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

}  // namespace olmoe
