#include "trainer/analysis/routing_record.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/files/files.h"
#include "core/hash.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;

uint64_t hash_of_ids(const int32_t* ids, int64_t count) {
  return hash64({reinterpret_cast<const char*>(ids), static_cast<size_t>(count) * sizeof(int32_t)});
}

/// An item whose bytes are those of a file.
safetensors::Item piece_item(const std::string& name, safetensors::Dtype dtype, std::vector<int64_t> shape,
                             const std::string& path) {
  return {.name = name,
          .dtype = dtype,
          .shape = std::move(shape),
          .bytes = {},
          .produce = [path](const safetensors::Sink& sink) {
            std::ifstream file(path, std::ios::binary);
            std::vector<char> part(size_t{1} << 20);
            while (file) {
              file.read(part.data(), std::ssize(part));
              if (file.gcount() > 0) sink(std::as_bytes(std::span(part).first(static_cast<size_t>(file.gcount()))));
            }
            if (file.bad()) throw Error(fmt::format("{}: cannot be read", path));
          }};
}

at::Tensor view_of(const safetensors::File& file, const std::string& name, at::ScalarType dtype) {
  const auto& shape = file.entry(name).shape;
  auto* const bytes = const_cast<std::byte*>(file.bytes(name).data());  // read only
  return at::from_blob(bytes, shape, at::TensorOptions().dtype(dtype));
}

}  // namespace

RecordWriter::RecordWriter(std::string path, int64_t sequence_length)
    : path_(std::move(path)), sequence_length_(sequence_length) {
  if (fs::exists(path_)) throw ConfigError(fmt::format("{} exists: name a record that does not", path_));
  const std::pair<Piece*, const char*> pieces[] = {{&experts_, ".experts"}, {&gates_, ".gates"}, {&ids_, ".ids"}};
  for (const auto& [piece, suffix] : pieces) {
    piece->path = path_ + suffix + ".tmp";
    piece->file.open(piece->path, std::ios::binary | std::ios::trunc);
    if (!piece->file) throw ConfigError(fmt::format("{}: cannot be written: {}", piece->path, std::strerror(errno)));
  }
}

RecordWriter::~RecordWriter() {
  for (auto* piece : {&experts_, &gates_, &ids_}) {
    piece->file.close();
    std::error_code ignored;
    fs::remove(piece->path, ignored);
  }
}

void RecordWriter::write(Piece& piece, const at::Tensor& values) {
  const auto dense = values.contiguous();
  piece.file.write(static_cast<const char*>(dense.const_data_ptr()), static_cast<std::streamsize>(dense.nbytes()));
  if (!piece.file) throw Error(fmt::format("{}: cannot be written: {}", piece.path, std::strerror(errno)));
}

void RecordWriter::append(const at::Tensor& ids_BS, const at::Tensor& experts_LNK, const at::Tensor& gates_LNK) {
  const int64_t N = ids_BS.numel();
  ENSURE(ids_BS.dim() == 2 && ids_BS.size(1) == sequence_length_ && experts_LNK.size(1) == N &&
             gates_LNK.sizes() == experts_LNK.sizes(),
         "a record of sequences of {} tokens: {} tokens were given", sequence_length_, N);
  if (tokens_ == 0) layers_ = experts_LNK.size(0), top_k_ = experts_LNK.size(2);
  ENSURE(layers_ == experts_LNK.size(0) && top_k_ == experts_LNK.size(2), "a record of {} layers and top-{}", layers_,
         top_k_);
  write(experts_, experts_LNK.transpose(0, 1).to(at::kInt));
  write(gates_, gates_LNK.transpose(0, 1).to(at::kFloat));
  write(ids_, ids_BS.to(at::kInt));
  tokens_ += N;
}

void RecordWriter::finish(std::map<std::string, std::string> metadata) {
  metadata["sequence_length"] = std::to_string(sequence_length_);
  for (auto* piece : {&experts_, &gates_, &ids_}) {
    piece->file.flush();
    if (!piece->file) throw Error(fmt::format("{}: cannot be written: {}", piece->path, std::strerror(errno)));
  }
  using safetensors::Dtype;
  const auto unfinished = path_ + ".tmp";
  safetensors::write(unfinished,
                     {piece_item("experts", Dtype::i32, {tokens_, layers_, top_k_}, experts_.path),
                      piece_item("gates", Dtype::f32, {tokens_, layers_, top_k_}, gates_.path),
                      piece_item("ids", Dtype::i32, {tokens_}, ids_.path)},
                     metadata);
  std::error_code failed;
  fs::rename(unfinished, path_, failed);
  if (failed) throw Error(fmt::format("cannot rename {} to {}: {}", unfinished, path_, failed.message()));
  fsync_folder(existing_folder(fs::absolute(path_).parent_path().string()));
}

RoutingRecord::RoutingRecord(std::string path, const Expected& expected) : path_(std::move(path)), expected_(expected) {
  const auto refuse = [&](const std::string& what) {
    throw DataError(fmt::format("routing record {}: {}", path_, what));
  };
  try {
    file_ = std::make_unique<safetensors::File>(path_);
  } catch (const Error& error) {
    refuse(error.what());
  }
  for (const auto& [name, dtype] : std::map<std::string, safetensors::Dtype>{
           {"experts", safetensors::Dtype::i32}, {"gates", safetensors::Dtype::f32}, {"ids", safetensors::Dtype::i32}})
    if (!file_->contains(name) || file_->entry(name).dtype != dtype) refuse("has no array " + name);
  experts_NLK_ = view_of(*file_, "experts", at::kInt);
  gates_NLK_ = view_of(*file_, "gates", at::kFloat);
  ids_N_ = view_of(*file_, "ids", at::kInt);
  const int64_t S = expected.sequence_length, N = ids_N_.numel();
  const auto stated = file_->metadata().find("sequence_length");
  if (stated == file_->metadata().end() || stated->second != std::to_string(S))
    refuse(fmt::format("its sequences are of {} tokens, those here of {}",
                       stated == file_->metadata().end() ? "no number of" : stated->second, S));
  const std::vector<int64_t> shape{N, expected.layers, expected.top_k};
  if (experts_NLK_.sizes() != shape || gates_NLK_.sizes() != shape || N % S != 0)
    refuse(fmt::format("is not of {} layers with experts and top-{}, as the model", expected.layers, expected.top_k));
  if (N > 0 && (experts_NLK_.min().item<int32_t>() < 0 || experts_NLK_.max().item<int32_t>() >= expected.experts))
    refuse(fmt::format("has experts {} to {}, the model {}", experts_NLK_.min().item<int32_t>(),
                       experts_NLK_.max().item<int32_t>(), expected.experts));
  num_sequences_ = N / S;
  const auto* const ids = ids_N_.const_data_ptr<int32_t>();
  for (int64_t b = 0; b < num_sequences_; ++b) by_hash_.emplace(hash_of_ids(ids + b * S, S), b);
}

int64_t RoutingRecord::find(const int64_t* ids) const {
  const int64_t S = expected_.sequence_length;
  const std::vector<int32_t> narrow(ids, ids + S);
  const auto [begin, end] = by_hash_.equal_range(hash_of_ids(narrow.data(), S));
  for (auto found = begin; found != end; ++found)
    if (std::equal(narrow.begin(), narrow.end(), ids_N_.const_data_ptr<int32_t>() + found->second * S))
      return found->second;
  throw DataError(
      fmt::format("routing record {}: it has no sequence that begins with the ids {}, {}, {}: replay the "
                  "tokens that it was made of",
                  path_, ids[0], ids[S > 1 ? 1 : 0], ids[S > 2 ? 2 : 0]));
}

at::Tensor RoutingRecord::values_of(const at::Tensor& values_NLK, const at::Tensor& ids_BS) const {
  const int64_t S = expected_.sequence_length, B = ids_BS.size(0);
  ENSURE(ids_BS.size(1) == S && ids_BS.scalar_type() == at::kLong && ids_BS.is_cpu(),
         "sequences of {} tokens, the record's are of {}", ids_BS.size(1), S);
  const auto ids = ids_BS.contiguous();
  std::vector<at::Tensor> parts{values_NLK.narrow(0, 0, 0)};
  for (int64_t b = 0; b < B; ++b)
    parts.push_back(values_NLK.narrow(0, find(ids.const_data_ptr<int64_t>() + b * S) * S, S));
  return at::cat(parts).transpose(0, 1).contiguous();
}

at::Tensor RoutingRecord::experts_of(const at::Tensor& ids_BS) const { return values_of(experts_NLK_, ids_BS); }
at::Tensor RoutingRecord::gates_of(const at::Tensor& ids_BS) const { return values_of(gates_NLK_, ids_BS); }

}  // namespace olmoe
