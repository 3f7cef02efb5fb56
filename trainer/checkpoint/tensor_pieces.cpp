#include "trainer/checkpoint/tensor_pieces.h"

#include <ATen/ops/from_blob.h>

#include "core/error.h"

namespace olmoe {
namespace {

at::ScalarType scalar_type(safetensors::Dtype dtype, const std::string& name) {
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
      throw CheckpointError(fmt::format("{}: weights of dtype {} cannot be read", name, safetensors::name(dtype)));
  }
}

}  // namespace

void TensorPieces::add(const std::string& name, int64_t first, safetensors::Dtype dtype,
                       std::span<const std::byte> bytes) {
  const auto numel = static_cast<int64_t>(bytes.size()) / safetensors::size_bytes(dtype);
  pieces_[name][first] = {first, numel, scalar_type(dtype, name), bytes};
}

void TensorPieces::read(const std::string& name, int64_t begin, at::Tensor out) const {
  const int64_t end = begin + out.numel();
  auto flat = out.view(-1);
  int64_t done = begin;
  if (const auto found = pieces_.find(name); found != pieces_.end()) {
    for (const auto& [first, piece] : found->second) {
      const int64_t from = std::max(done, first), to = std::min(end, first + piece.numel);
      if (from > done || from >= to) continue;
      auto* bytes = const_cast<std::byte*>(piece.bytes.data());  // from_blob has no const form; only read
      auto all = at::from_blob(bytes, {piece.numel}, at::TensorOptions().dtype(piece.dtype));
      flat.narrow(0, from - begin, to - from).copy_(all.narrow(0, from - first, to - from));
      done = to;
    }
  }
  if (done != end) throw CheckpointError(fmt::format("{}: elements {} to {} are missing", name, done, end));
}

}  // namespace olmoe
