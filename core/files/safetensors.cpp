#include "core/files/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>
#include <tuple>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/file_kinds.h"
#include "core/hash.h"

namespace olmoe::safetensors {
namespace {

using nlohmann::json;
static_assert(std::endian::native == std::endian::little, "the format is little-endian, and so is this code");

constexpr size_t kPrefixBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr int kMaxJsonDepth = 3;  // header, tensor, shape
constexpr const char* kMetadata = "__metadata__";

struct DtypeInfo {
  Dtype dtype;
  std::string_view name;
  int64_t size_bytes;
};
constexpr std::array<DtypeInfo, 13> kDtypes{{{Dtype::boolean, "BOOL", 1},
                                             {Dtype::u8, "U8", 1},
                                             {Dtype::i8, "I8", 1},
                                             {Dtype::i16, "I16", 2},
                                             {Dtype::u16, "U16", 2},
                                             {Dtype::f16, "F16", 2},
                                             {Dtype::bf16, "BF16", 2},
                                             {Dtype::i32, "I32", 4},
                                             {Dtype::u32, "U32", 4},
                                             {Dtype::f32, "F32", 4},
                                             {Dtype::f64, "F64", 8},
                                             {Dtype::i64, "I64", 8},
                                             {Dtype::u64, "U64", 8}}};

const DtypeInfo& info(Dtype dtype) { return kDtypes.at(static_cast<size_t>(dtype)); }

/// Bytes of a tensor. Throws Error if they do not fit in 63 bits.
int64_t tensor_bytes(Dtype dtype, const std::vector<int64_t>& shape) {
  int64_t bytes = size_bytes(dtype);
  for (const int64_t extent : shape)
    if (extent < 0 || __builtin_mul_overflow(bytes, extent, &bytes))
      throw Error("its size is negative or over 63 bits");
  return bytes;
}

Dtype parse_dtype(const std::string& word) {
  for (const DtypeInfo& known : kDtypes)
    if (known.name == word) return known.dtype;
  throw Error(fmt::format("unknown dtype '{}'", word));
}

std::vector<int64_t> parse_integers(const json& list) {
  if (!list.is_array()) throw Error("shape and data_offsets must be lists");
  std::vector<int64_t> values;
  for (const json& value : list) {
    if (!value.is_number_unsigned() || value.get<uint64_t>() > INT64_MAX)
      throw Error(fmt::format("{} is not a size", value.dump()));
    values.push_back(value.get<int64_t>());
  }
  return values;
}

Entry parse_entry(const json& tensor) {
  constexpr const char* kForm = "a tensor has dtype, shape, data_offsets, and no more";
  if (!tensor.is_object() || tensor.size() != 3) throw Error(kForm);
  for (const char* key : {"dtype", "shape", "data_offsets"})
    if (!tensor.contains(key)) throw Error(kForm);
  if (!tensor["dtype"].is_string()) throw Error("dtype must be a string");
  const auto offsets = parse_integers(tensor["data_offsets"]);
  if (offsets.size() != 2) throw Error("data_offsets must be two numbers");
  const Entry entry{parse_dtype(tensor["dtype"]), parse_integers(tensor["shape"]), offsets[0], offsets[1]};
  const int64_t bytes = tensor_bytes(entry.dtype, entry.shape);
  if (entry.end < entry.begin || entry.end - entry.begin != bytes)
    throw Error(fmt::format("data_offsets span {} bytes, dtype and shape make {}", entry.end - entry.begin, bytes));
  return entry;
}

std::map<std::string, std::string> parse_metadata(const json& object) {
  std::map<std::string, std::string> metadata;
  if (!object.is_object()) throw Error("it must be an object");
  for (const auto& [key, value] : object.items()) {
    if (!value.is_string()) throw Error(fmt::format("'{}' must be a string", key));
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

/// JSON of a header. The library silently keeps the last of duplicate keys: they are detected here.
json parse_json(std::string_view text) {
  std::vector<std::set<std::string>> keys;
  const auto watch = [&keys](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxJsonDepth) throw Error("the header is nested too deep");
    if (event == json::parse_event_t::object_start) keys.emplace_back();
    if (event == json::parse_event_t::object_end) keys.pop_back();
    if (event == json::parse_event_t::key && !keys.back().insert(parsed.get<std::string>()).second)
      throw Error(fmt::format("duplicate key '{}'", parsed.get<std::string>()));
    return true;
  };
  try {
    return json::parse(text, watch);
  } catch (const json::exception& error) {
    throw Error(fmt::format("the header is not JSON: {}", error.what()));
  }
}

/// Throws Error unless the tensors, in the order of their bytes, cover the data part without holes or overlap.
void check_layout(const std::map<std::string, Entry>& entries, int64_t data_bytes) {
  std::vector<const std::pair<const std::string, Entry>*> order;
  for (const auto& item : entries) order.push_back(&item);
  std::sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return std::pair(a->second.begin, a->second.end) < std::pair(b->second.begin, b->second.end);
  });
  int64_t end = 0;
  for (const auto* item : order) {
    if (item->second.begin != end)
      throw Error(fmt::format("tensor '{}' begins at {}, which leaves {} {}", item->first, item->second.begin,
                              item->second.begin > end ? "a hole after" : "an overlap before", end));
    end = item->second.end;
  }
  if (end != data_bytes)
    throw Error(fmt::format("tensors take {} bytes, the file has {}{}", end, data_bytes,
                            data_bytes < end ? ": it was cut short, or not downloaded to its end" : ""));
}

/// Runs `step`; an error of it gets the name of the item that it worked on, and keeps its exit code. What the system
/// refused stays a FileError: it says nothing about the file's content.
template <class Step>
void naming(std::string_view kind, const std::string& name, const Step& step) {
  try {
    step();
  } catch (const FileError& error) {
    throw FileError(fmt::format("{} '{}': {}", kind, name, error.what()));
  } catch (const Error& error) {
    throw Error(fmt::format("{} '{}': {}", kind, name, error.what()), error.code());
  }
}

/// A file's bytes, mapped read-only.
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const FileDescriptor file(path, O_RDONLY);
    size_ = static_cast<size_t>(file.size_bytes());
    if (size_ == 0) return;  // mmap refuses it
    start_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file.fd(), 0);
    if (start_ == MAP_FAILED) throw FileError(fmt::format("cannot map: {}", std::strerror(errno)));
  }
  ~Mapping() {
    if (size_ > 0) ::munmap(start_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(start_), size_}; }
  void release() const {
    if (size_ > 0) ::madvise(start_, size_, MADV_DONTNEED);  // nothing is lost: the mapping is never written to
  }

 private:
  void* start_ = nullptr;
  size_t size_ = 0;
};

/// The error text for a file that does not begin with a valid header length.
std::string describe_bad_length(std::span<const std::byte> file, uint64_t header_bytes) {
  if (const auto other = recognize_file(file); !other.empty()) return "is " + other;
  return fmt::format(
      "a header of {} bytes is over the limit or past the file's end: it is not a safetensors file, or was "
      "cut short",
      header_bytes);
}

}  // namespace

int64_t size_bytes(Dtype dtype) { return info(dtype).size_bytes; }
std::string_view name(Dtype dtype) { return info(dtype).name; }

struct File::Impl {
  explicit Impl(const std::string& file_path) : path(file_path), mapping(file_path) {
    const std::span<const std::byte> file = mapping.bytes();
    if (file.size() < kPrefixBytes) throw Error(fmt::format("{} bytes are too few for a header", file.size()));
    uint64_t header_bytes = 0;
    std::memcpy(&header_bytes, file.data(), kPrefixBytes);
    if (header_bytes > std::min<uint64_t>(kMaxHeaderBytes, file.size() - kPrefixBytes))
      throw Error(describe_bad_length(file, header_bytes));
    const auto header = file.subspan(kPrefixBytes, header_bytes);
    parse({reinterpret_cast<const char*>(header.data()), header.size()});
    data = file.subspan(kPrefixBytes + header_bytes);
    check_layout(entries, static_cast<int64_t>(data.size()));
  }

  void parse(std::string_view text) {
    if (!text.starts_with('{')) throw Error("the header does not start with '{'");
    const json header = parse_json(text);
    for (auto item = header.begin(); item != header.end(); ++item)
      naming("entry", item.key(), [&] {
        if (item.key() == kMetadata) {
          metadata = parse_metadata(*item);
        } else {
          entries[item.key()] = parse_entry(*item);
        }
      });
  }

  std::string path;
  Mapping mapping;
  std::span<const std::byte> data;
  std::map<std::string, Entry> entries;
  std::map<std::string, std::string> metadata;
};

File::File(const std::string& path) {
  naming("safetensors file", path, [&] { impl_ = std::make_unique<Impl>(path); });
}

File::~File() = default;

const std::map<std::string, Entry>& File::entries() const { return impl_->entries; }
const std::map<std::string, std::string>& File::metadata() const { return impl_->metadata; }
bool File::contains(const std::string& tensor) const { return impl_->entries.contains(tensor); }

const Entry& File::entry(const std::string& tensor) const {
  const auto found = impl_->entries.find(tensor);
  if (found == impl_->entries.end())
    throw Error(fmt::format("safetensors file '{}' has no tensor '{}'", impl_->path, tensor));
  return found->second;
}

std::span<const std::byte> File::bytes(const std::string& tensor) const {
  const Entry& found = entry(tensor);
  return impl_->data.subspan(static_cast<size_t>(found.begin), static_cast<size_t>(found.end - found.begin));
}

std::span<const std::byte> File::all_bytes() const { return impl_->mapping.bytes(); }
int64_t File::header_bytes() const { return std::ssize(impl_->mapping.bytes()) - std::ssize(impl_->data); }
void File::release() const { impl_->mapping.release(); }

namespace {

void check_item(const Item& item) {
  const int64_t bytes = tensor_bytes(item.dtype, item.shape);
  if (item.name == kMetadata) throw Error("the name is reserved");
  if (item.produce && !item.bytes.empty()) throw Error("it has both bytes and a producer");
  if (!item.produce && bytes != static_cast<int64_t>(item.bytes.size()))
    throw Error(fmt::format("{} bytes given, dtype and shape make {}", item.bytes.size(), bytes));
}

/// Length, JSON and padding, ready to be written. `items` are in the order of the file.
std::string header_text(const std::vector<Item>& items, const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header[kMetadata] = metadata;
  int64_t begin = 0;
  for (const Item& item : items) {
    if (header.contains(item.name)) throw Error(fmt::format("two tensors are named '{}'", item.name));
    const int64_t end = begin + tensor_bytes(item.dtype, item.shape);
    header[item.name] = {{"dtype", name(item.dtype)}, {"shape", item.shape}, {"data_offsets", {begin, end}}};
    begin = end;
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const json::exception& error) {
    throw Error(fmt::format("a name is not UTF-8: {}", error.what()));
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t length = text.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof length) + text;
}

/// Passes the bytes of an item to `append`. Those of a producer are counted: the header states their number.
void append_item(const Item& item, const Sink& append) {
  if (!item.produce) return append(item.bytes);
  const int64_t expected_bytes = tensor_bytes(item.dtype, item.shape);
  int64_t produced_bytes = 0;
  item.produce([&](std::span<const std::byte> piece) {
    produced_bytes += static_cast<int64_t>(piece.size());
    append(piece);
  });
  if (produced_bytes != expected_bytes)
    throw Error(fmt::format("tensor '{}': {} bytes produced, dtype and shape make {}", item.name, produced_bytes,
                            expected_bytes));
}

/// Appends to a new file so that at most two windows of it are in the page cache: beside training a file of many GB
/// would otherwise take the memory that the trainer allocates from.
class PacedFile {
 public:
  explicit PacedFile(const std::string& path) : file_(path, O_WRONLY | O_CREAT | O_TRUNC) {}
  void append(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const auto part = bytes.first(std::min(bytes.size(), static_cast<size_t>(begin_ + kWindowBytes - end_)));
      file_.write_all(part);
      end_ += std::ssize(part);
      bytes = bytes.subspan(part.size());
      if (end_ - begin_ == kWindowBytes) next_window();
    }
  }
  void finish() {
    file_.sync();
    file_.close();
  }

 private:
  static constexpr int64_t kWindowBytes = int64_t{64} << 20;
  void next_window() {
    file_.begin_write_back(begin_, kWindowBytes);
    if (begin_ > 0) file_.finish_write_back(begin_ - kWindowBytes, kWindowBytes);
    begin_ = end_;
  }

  FileDescriptor file_;
  int64_t begin_ = 0, end_ = 0;  ///< of the present window, up to what is written
};

Written write_file(const std::string& path, const std::string& header, const std::vector<Item>& items) {
  PacedFile file(path);
  BlockHasher hasher;
  Written written{std::ssize(header), std::ssize(header), hash_of(std::as_bytes(std::span(header))), {}};
  file.append(std::as_bytes(std::span(header)));
  for (const Item& item : items)
    append_item(item, [&](std::span<const std::byte> bytes) {
      file.append(bytes);
      hasher.update(bytes);
      written.size_bytes += std::ssize(bytes);
    });
  file.finish();
  written.block_hashes = hasher.finish();
  return written;
}

}  // namespace

Written write(const std::string& path, std::vector<Item> items, const std::map<std::string, std::string>& metadata) {
  Written written{};
  naming("safetensors file", path, [&] {
    for (const Item& item : items) naming("tensor", item.name, [&] { check_item(item); });
    std::sort(items.begin(), items.end(), [](const Item& a, const Item& b) {
      return std::tuple(-size_bytes(a.dtype), std::string_view(a.name)) <
             std::tuple(-size_bytes(b.dtype), std::string_view(b.name));
    });
    written = write_file(path, header_text(items, metadata), items);
  });
  return written;
}

}  // namespace olmoe::safetensors
