// How attention's positions are divided into blocks and documents.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "core/integers.h"

namespace olmoe::kernels {

inline constexpr int64_t kQueryBlock = 64;  ///< queries of a block on a CPU

/// A sequence, or a document of one: positions [begin, begin + length) of batch row b.
struct Segment {
  int64_t b, begin, length;
  int64_t blocks() const { return ceil_div(length, kQueryBlock); }
};

/// A block of queries: positions [first, first + rows), which attend to the positions [key, key + keys) up to the last
/// of them.
struct Block {
  int64_t first, rows, key, keys;
  int64_t window;

  struct Range {
    int64_t begin, end;
  };
  /// The keys, counted from `key`, that query i of the block sees.
  Range visible(int64_t i) const {
    const int64_t end = first + i + 1 - key;
    return {std::max<int64_t>(0, end - window), end};
  }
};
inline Block block_at(const Segment& segment, int64_t index, int64_t window) {
  const int64_t first = segment.begin + index * kQueryBlock;
  const int64_t end = std::min(first + kQueryBlock, segment.begin + segment.length);
  const int64_t key = std::max(segment.begin, first + 1 - window);
  return {first, end - first, key, end - key, window};
}

/// All sequences, or the documents of one, and what a block of them has at most.
struct Segments {
  std::vector<Segment> list = {};
  int64_t window = 0;   ///< at most `longest`
  int64_t longest = 0;  ///< positions of a segment
  int64_t blocks = 0;   ///< of all segments

  int64_t block_rows() const { return std::min(longest, kQueryBlock); }
  int64_t block_keys() const { return std::min(longest, window + block_rows()); }
};
/// Of B sequences of S positions; with `bounds`, which are 0 to S, of the documents of one. window 0: none.
inline Segments segments_of(int64_t B, int64_t S, std::span<const int32_t> bounds, int64_t window) {
  Segments out;
  for (size_t i = 0; i + 1 < bounds.size(); ++i) out.list.push_back({0, bounds[i], bounds[i + 1] - bounds[i]});
  if (bounds.empty() && S > 0)
    for (int64_t b = 0; b < B; ++b) out.list.push_back({b, 0, S});
  for (const auto& segment : out.list) {
    out.longest = std::max(out.longest, segment.length);
    out.blocks += segment.blocks();
  }
  out.window = window > 0 ? std::min(window, out.longest) : out.longest;
  return out;
}

/// Documents [first, first + count) of a micro-batch, in rows [begin, begin + rows) of its tokens.
struct DocumentGroup {
  int64_t first, count, begin, rows;
  int64_t longest;  ///< rows of a document
};
/// FlashAttention's backward allocates so many rows for each document beside the rows of its tokens (mha_varlen_bwd of
/// ATen's flash_api.cpp).
inline constexpr int64_t kRowsOfDocument = 128;
/// Documents that a call of FlashAttention takes at most: blocks along the second axis of its grid.
inline constexpr int64_t kMostDocuments = 65'535;
/// Documents that one call of its backward is given at most, so that it allocates no more than twice the rows.
inline int64_t most_documents(int64_t rows) { return std::min(kMostDocuments, ceil_div(rows, kRowsOfDocument)); }
/// The documents in order, in as few groups of at most `most` as there can be, whose numbers differ by at most 1.
inline std::vector<DocumentGroup> document_groups(std::span<const int32_t> bounds, int64_t most) {
  const auto documents = static_cast<int64_t>(bounds.size()) - 1;
  const int64_t groups = ceil_div(documents, most);
  std::vector<DocumentGroup> out;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t first = documents * group / groups, end = documents * (group + 1) / groups;
    const auto at = [&](int64_t document) { return int64_t{bounds[static_cast<size_t>(document)]}; };
    out.push_back({first, end - first, at(first), at(end) - at(first), 0});
    for (int64_t i = first; i < end; ++i) out.back().longest = std::max(out.back().longest, at(i + 1) - at(i));
  }
  return out;
}

}  // namespace olmoe::kernels
