#include "trainer/checkpoint/staged_bytes.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace olmoe {

StagedBytes::StagedBytes(int64_t piece_bytes) : piece_bytes_(piece_bytes) {
  ENSURE(piece_bytes > 0, "staging buffer of {} bytes", piece_bytes);
}

void StagedBytes::read(const at::Tensor& flat, const Take& take) {
  ENSURE(flat.dim() == 1 && flat.is_contiguous(), "a tensor of {} dimensions is not flat and contiguous", flat.dim());
  const at::Tensor bytes = flat.detach().view(at::kByte);
  if (!piece_.defined())
    piece_ = at::empty({piece_bytes_}, at::TensorOptions().dtype(at::kByte).pinned_memory(flat.is_cuda()));
  for (int64_t begin = 0; begin < bytes.numel(); begin += piece_bytes_) {
    const int64_t size = std::min(piece_bytes_, bytes.numel() - begin);
    piece_.narrow(0, 0, size).copy_(bytes.narrow(0, begin, size));
    take({static_cast<const std::byte*>(piece_.const_data_ptr()), static_cast<size_t>(size)});
  }
}

}  // namespace olmoe
