#include "trainer/checkpoint/tensor_pieces.h"

#include <ATen/ops/from_blob.h>

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

/// Calls `use` with each piece that holds elements of [begin, end), and the range of them. Throws CheckpointError where
/// some are missing.
template <class Use>
void TensorPieces::walk(const std::string& name, int64_t begin, int64_t end, const Use& use) const {
  int64_t done = begin;
  if (const auto found = pieces_.find(name); found != pieces_.end()) {
    for (const auto& [first, piece] : found->second) {
      const int64_t from = std::max(done, first), to = std::min(end, first + piece.numel);
      if (from > done || from >= to) continue;
      use(piece, from, to);
      done = to;
    }
  }
  if (done != end) throw CheckpointError(fmt::format("{}: elements {} to {} are missing", name, done, end));
}

void TensorPieces::read(const std::string& name, int64_t begin, at::Tensor out) const {
  auto flat = out.view(-1);
  walk(name, begin, begin + out.numel(), [&](const Piece& piece, int64_t from, int64_t to) {
    auto* bytes = const_cast<std::byte*>(piece.bytes.data());  // from_blob has no const form; only read
    auto all = at::from_blob(bytes, {piece.numel}, at::TensorOptions().dtype(piece.dtype));
    flat.narrow(0, from - begin, to - from).copy_(all.narrow(0, from - piece.first, to - from));
  });
}

void TensorPieces::visit(const std::string& name, int64_t begin, int64_t end,
                         const std::function<void(std::span<const std::byte>)>& visit) const {
  walk(name, begin, end, [&](const Piece& piece, int64_t from, int64_t to) {
    const auto size = piece.bytes.size() / static_cast<size_t>(piece.numel);
    visit(piece.bytes.subspan(static_cast<size_t>(from - piece.first) * size, static_cast<size_t>(to - from) * size));
  });
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
