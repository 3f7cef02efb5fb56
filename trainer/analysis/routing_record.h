// Shapes: B sequences of S tokens, N = B*S; L layers with experts, K experts a token; N of all sequences in a file.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>

#include "core/files/safetensors.h"

namespace olmoe {

/// A routing record, a safetensors file: experts int32 [N, L, K] and gates float32 [N, L, K] of each token and layer,
/// by falling score, and ids int32 [N]; metadata sequence_length. Written in pieces: sequence by sequence to files
/// beside it, which finish() joins. The file is there whole or not at all.
class RecordWriter {
 public:
  /// Throws ConfigError where `path` exists or cannot be written to.
  RecordWriter(std::string path, int64_t sequence_length);
  /// Removes the pieces.
  ~RecordWriter();
  RecordWriter(const RecordWriter&) = delete;
  RecordWriter& operator=(const RecordWriter&) = delete;
  /// Appends whole sequences: ids [B, S] (int64), experts (int32) and gates (any float) [L, B*S, K].
  void append(const at::Tensor& ids_BS, const at::Tensor& experts_LNK, const at::Tensor& gates_LNK);
  /// `metadata`: more of it.
  void finish(std::map<std::string, std::string> metadata);

 private:
  struct Piece {
    std::string path;
    std::ofstream file;
  };
  void write(Piece& piece, const at::Tensor& values);

  const std::string path_;
  const int64_t sequence_length_;
  int64_t tokens_ = 0, layers_ = 0, top_k_ = 0;
  Piece experts_, gates_, ids_;
};

/// Reads a routing record, and finds its sequences by their ids: in any order and layout.
class RoutingRecord {
 public:
  /// The model and the sequences that it is for.
  struct Expected {
    int64_t layers, experts, top_k, sequence_length;
  };
  /// Throws DataError for a file that is no record, or one of other layers, top-k or sequence length, or with experts
  /// that the model does not have.
  RoutingRecord(std::string path, const Expected& expected);
  int64_t num_sequences() const { return num_sequences_; }
  /// int32 [L, B*S, K] of sequences ids [B, S] (int64). Throws DataError for one that the record does not have.
  at::Tensor experts_of(const at::Tensor& ids_BS) const;
  /// float32 [L, B*S, K]; throws as experts_of().
  at::Tensor gates_of(const at::Tensor& ids_BS) const;

 private:
  int64_t find(const int64_t* ids) const;
  at::Tensor values_of(const at::Tensor& values_NLK, const at::Tensor& ids_BS) const;

  const std::string path_;
  const Expected expected_;
  std::unique_ptr<safetensors::File> file_;
  at::Tensor experts_NLK_, gates_NLK_, ids_N_;  // in the mapped file
  int64_t num_sequences_ = 0;
  std::unordered_multimap<uint64_t, int64_t> by_hash_;  // of a sequence's ids
};

}  // namespace olmoe
