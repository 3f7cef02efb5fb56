#include "trainer/checkpoint/tensor_pieces.h"

#include <ATen/ops/empty.h>

#include <algorithm>

#include "core/error.h"

namespace olmoe {

std::optional<at::ScalarType> weight_dtype(safetensors::Dtype dtype) {
  switch (dtype) {
    case safetensors::Dtype::f64:
      return at::kDouble;
    case safetensors::Dtype::f32:
      return at::kFloat;
    case safetensors::Dtype::bf16:
      return at::kBFloat16;
    case safetensors::Dtype::f16:
      return at::kHalf;
    default:
      return {};
  }
}

void TensorPieces::add(const std::string& name, int64_t first, safetensors::Dtype dtype,
                       std::span<const std::byte> bytes) {
  const auto type = weight_dtype(dtype);
  if (!type)
    throw CheckpointError(fmt::format("{}: weights of dtype {} cannot be read", name, safetensors::name(dtype)));
  const auto numel = static_cast<int64_t>(bytes.size()) / safetensors::size_bytes(dtype);
  if (!pieces_[name].emplace(first, Piece{first, numel, *type, bytes}).second)
    throw CheckpointError(fmt::format("{}: two pieces begin at element {}", name, first));
}

void TensorPieces::copy(std::span<const std::byte> bytes, std::span<std::byte> out) {
  std::ranges::copy(bytes, out.begin());
}

void TensorPieces::read(const std::string& name, int64_t begin, const at::Tensor& out, const Fetch& fetch) const {
  ENSURE(out.is_cpu() && out.is_contiguous(), "{} is to be read to a tensor that is not contiguous on a CPU", name);
  const auto flat = out.view(-1);
  int64_t done = begin;
  const int64_t end = begin + out.numel();
  if (const auto found = pieces_.find(name); found != pieces_.end()) {
    for (const auto& [first, piece] : found->second) {
      const int64_t to = std::min(end, first + piece.numel);
      if (first > done || done >= to) continue;
      const auto part = flat.narrow(0, done - begin, to - done);
      const auto same =
          part.scalar_type() == piece.dtype ? part : at::empty(part.sizes(), part.options().dtype(piece.dtype));
      const size_t size = piece.bytes.size() / static_cast<size_t>(piece.numel);
      fetch(piece.bytes.subspan(static_cast<size_t>(done - first) * size, same.nbytes()),
            {static_cast<std::byte*>(same.mutable_data_ptr()), same.nbytes()});
      part.copy_(same);
      done = to;
    }
  }
  if (done != end) throw CheckpointError(fmt::format("{}: elements {} to {} are missing", name, done, end));
}

std::map<std::string, int64_t> TensorPieces::sizes() const {
  std::map<std::string, int64_t> out;
  for (const auto& [name, pieces] : pieces_) {
    int64_t end = 0;
    for (const auto& [first, piece] : pieces) {
      if (first != end)
        throw CheckpointError(fmt::format("{}: a piece begins at element {}, which leaves {} {}", name, first,
                                          first > end ? "a hole after" : "an overlap before", end));
      end += piece.numel;
    }
    out[name] = end;
  }
  return out;
}

}  // namespace olmoe
