#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

/// The safetensors format as names, dtypes, shapes and bytes. Little-endian, row-major.
/// Source: huggingface/safetensors, README "Format".
namespace olmoe::safetensors {

/// In a file: BOOL, U8, I8, I16, U16, F16, BF16, I32, U32, F32, F64, I64, U64.
enum class Dtype { boolean, u8, i8, i16, u16, f16, bf16, i32, u32, f32, f64, i64, u64 };
int64_t size_bytes(Dtype dtype);
std::string_view name(Dtype dtype);

struct Entry {
  Dtype dtype;
  std::vector<int64_t> shape;
  int64_t begin, end;  ///< bytes, relative to the data part
};

/// A file, memory-mapped read-only. The constructor checks the whole header: size, UTF-8 JSON object, no duplicate
/// keys, known dtypes, no overflow, bytes = shape x size, no holes, no overlap, exact length.
class File {
 public:
  /// Throws Error with the file and the rule that it violates.
  explicit File(const std::string& path);
  ~File();
  const std::map<std::string, Entry>& entries() const;
  const std::map<std::string, std::string>& metadata() const;
  bool contains(const std::string& tensor) const;
  const Entry& entry(const std::string& tensor) const;  ///< throws Error with file and tensor if it is missing
  /// The bytes of a tensor in the mapping, valid as long as this object. Throws like entry().
  std::span<const std::byte> bytes(const std::string& tensor) const;
  std::span<const std::byte> all_bytes() const;  ///< the whole file
  int64_t header_bytes() const;                  ///< of its length and header, before the data part
  /// Takes pages that were read out of this process's memory; those that are read again come back from the file.
  void release() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Consumes bytes of a tensor, which are valid during the call only.
using Sink = std::function<void(std::span<const std::byte>)>;

/// A tensor to be written: its bytes, or a function that passes them to a Sink chunk by chunk, in order. Items are
/// produced one at a time, in the order of the file.
struct Item {
  std::string name;
  Dtype dtype;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes = {};
  std::function<void(const Sink&)> produce = {};
};
/// A file that was written, with hashes that were taken from memory meanwhile.
struct Written {
  int64_t size_bytes;
  int64_t header_bytes;                   ///< of its length and header
  std::string header_hash;                ///< Hasher's of these
  std::vector<std::string> block_hashes;  ///< BlockHasher's of the data part
};
/// Writes and fsyncs `path` (not atomically). Order of tensors: falling dtype size, then name. Copies no bytes. Throws
/// Error with the system's reason, or with the tensor whose bytes are too few or too many.
Written write(const std::string& path, std::vector<Item> items, const std::map<std::string, std::string>& metadata);

}  // namespace olmoe::safetensors
