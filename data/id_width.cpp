#include "data/id_width.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace olmoe {
namespace {

/// Statistics of the ids at one offset within every eight bytes.
struct Column {
  int64_t count = 0, zeros = 0;
  uint32_t largest = 0;

  void add(uint32_t id) {
    ++count;
    zeros += id == 0;
    largest = std::max(largest, id);
  }
};

constexpr int64_t kWidestBytes = 8;

template <class Id>
std::array<Column, kWidestBytes / sizeof(Id)> columns_of(const FileSample& sample) {
  std::array<Column, kWidestBytes / sizeof(Id)> columns;
  for (const auto& block : sample.blocks) {
    auto at = static_cast<size_t>((kWidestBytes - block.offset % kWidestBytes) % kWidestBytes);
    for (; at + kWidestBytes <= block.bytes.size(); at += kWidestBytes) {
      std::array<Id, kWidestBytes / sizeof(Id)> ids;
      std::memcpy(ids.data(), block.bytes.data() + at, kWidestBytes);
      for (size_t i = 0; i < ids.size(); ++i) columns[i].add(ids[i]);
    }
  }
  return columns;
}

// Vocabularies have less than 2^20 ids: the upper 16 bits of one are below 16.
constexpr uint32_t kLargestUpper = 15;

bool is_upper(const Column& column) { return column.largest <= kLargestUpper && column.zeros * 8 >= column.count; }

}  // namespace

int64_t wider_id_bytes(const FileSample& sample, int64_t id_bytes) {
  constexpr int64_t kMinGroups = 16;  // of eight bytes
  if (id_bytes == 4) {
    const auto columns = columns_of<uint32_t>(sample);
    const bool wide = columns[0].count >= kMinGroups && columns[0].largest > kLargestUpper && columns[1].largest == 0;
    return wide ? 8 : 0;
  }
  const auto columns = columns_of<uint16_t>(sample);
  const bool wide = columns[0].count >= kMinGroups && columns[0].largest > kLargestUpper && is_upper(columns[1]) &&
                    is_upper(columns[3]);
  if (!wide) return 0;
  return columns[2].largest == 0 && columns[3].largest == 0 ? 8 : 4;
}

}  // namespace olmoe
