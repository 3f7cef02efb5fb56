#include "trainer/inspection/shared_record.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include "parallel/agreement.h"

namespace olmoe {
namespace {

/// `mine`, its dimension `dim` padded to `size`, of all ranks: [ranks, ...].
at::Tensor gathered(Communicator& world, const at::Tensor& mine, int64_t dim, int64_t size) {
  auto shape = mine.sizes().vec();
  shape.at(static_cast<size_t>(dim)) = size;
  auto padded = at::zeros(shape, mine.options());
  padded.narrow(dim, 0, mine.size(dim)).copy_(mine);
  shape.insert(shape.begin(), world.size());
  auto all = at::empty(shape, mine.options());
  world.all_gather(all.view({-1}), padded.view({-1}));
  return all;
}

}  // namespace

SharedRecord::SharedRecord(const std::string& path, int64_t sequence_length, int64_t tokens, Communicator& world)
    : sequence_length_(sequence_length), tokens_(tokens), world_(world) {
  agree(world, [&] {
    if (world.rank() == 0) writer_ = std::make_unique<RecordWriter>(path, sequence_length);
  });
}

void SharedRecord::append(const RoutedBatch& batch) {
  const int64_t sequences = batch.tokens.ids_BS.size(0);
  auto count = at::zeros({1}, at::kLong).fill_(sequences);
  const auto counts = gathered(world_, count, 0, 1);
  const auto ids = gathered(world_, batch.tokens.ids_BS.contiguous(), 0, tokens_ / sequence_length_);
  const auto experts = gathered(world_, batch.tokens.experts_LNK, 1, tokens_);
  const auto gates = gathered(world_, batch.gates_LNK.to(at::kFloat), 1, tokens_);
  agree(world_, [&] {
    for (int64_t rank = 0; writer_ && rank < world_.size(); ++rank) {
      const int64_t n = counts[rank].item<int64_t>();
      if (n == 0) continue;
      const int64_t tokens = n * sequence_length_;
      writer_->append(ids[rank].narrow(0, 0, n), experts[rank].narrow(1, 0, tokens), gates[rank].narrow(1, 0, tokens));
    }
  });
}

void SharedRecord::finish(const std::map<std::string, std::string>& metadata) {
  agree(world_, [&] {
    if (writer_) writer_->finish(metadata);
    writer_.reset();
  });
}

}  // namespace olmoe
