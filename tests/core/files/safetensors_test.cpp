#include "core/files/safetensors.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/hash.h"
#include "core/random.h"
#include "support/catch.h"
#include "support/temp_folder.h"

namespace olmoe::safetensors {
namespace {

/// A file of that header and so many data bytes, its length field right.
std::string file_text(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string text(reinterpret_cast<const char*>(&length), 8);
  return text + header + std::string(data_bytes, '\1');
}

std::string tensor(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return R"({"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}";
}

/// The rule that a file breaks, or "accepted".
std::string verdict(const std::string& text) {
  const TempFolder folder;
  const std::string path = folder.add("x.safetensors", text);
  const std::string start = "safetensors file '" + path + "': ";
  try {
    const File file(path);
    for (const auto& [name, entry] : file.entries())
      REQUIRE(static_cast<int64_t>(file.bytes(name).size()) == entry.end - entry.begin);
  } catch (const Error& error) {
    const std::string message = error.what();
    REQUIRE(message.starts_with(start));
    return message.substr(start.size());
  }
  return "accepted";
}

std::string verdict_of_header(const std::string& header, size_t data_bytes) {
  return verdict(file_text(header, data_bytes));
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

TEST_CASE("an empty file of tensors has the published bytes") {
  const TempFolder folder;
  const Written written = write(folder / "empty", {}, {});
  const std::string text = read_text(folder / "empty");
  CHECK(text == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  CHECK(written.size_bytes == 16);
  CHECK(written.header_hash == hash_file(folder / "empty"));
  CHECK(written.block_hashes.empty());
  CHECK(File(folder / "empty").entries().empty());
}

TEST_CASE("one small tensor gives the published header of 64 bytes") {
  const TempFolder folder;
  const std::string data(24, '\2');
  write(folder / "one", {{"attn.0", Dtype::f32, {1, 2, 3}, bytes_of(data)}}, {});
  CHECK(read_text(folder / "one") == std::string("\x40\0\0\0\0\0\0\0", 8) +
                                         R"({"attn.0":{"dtype":"F32","shape":[1,2,3],"data_offsets":[0,24]}})" + data);
}

TEST_CASE("a file reads back as written: every dtype, order, shapes, metadata, digest") {
  const TempFolder folder;
  std::vector<Item> items;
  std::vector<std::string> data;
  for (int d = 0; d <= static_cast<int>(Dtype::u64); ++d)
    data.push_back(std::string(static_cast<size_t>(6 * size_bytes(static_cast<Dtype>(d))), static_cast<char>('a' + d)));
  for (size_t d = 0; d < data.size(); ++d)
    items.push_back({"t" + std::string(name(static_cast<Dtype>(d))), static_cast<Dtype>(d), {2, 3}, bytes_of(data[d])});
  items.push_back({"empty \"quoted\"", Dtype::bf16, {0, 5}, {}});
  items.push_back({"scalar", Dtype::u8, {}, bytes_of(data[0]).first(1)});
  const std::map<std::string, std::string> metadata{{"format", "pt"}, {"step", "12"}};
  const Written written = write(folder / "all", items, metadata);
  CHECK(written.size_bytes == static_cast<int64_t>(std::filesystem::file_size(folder / "all")));
  const auto text = read_text(folder / "all");
  const auto header = bytes_of(text).first(static_cast<size_t>(written.header_bytes));
  CHECK(written.header_hash == hash_of(header));
  CHECK(written.block_hashes == std::vector{hash_of(bytes_of(text).subspan(header.size()))});

  const File file(folder / "all");
  CHECK(file.metadata() == metadata);
  CHECK(file.entries().size() == items.size());
  for (const Item& item : items) {
    INFO(item.name);
    CHECK(file.entry(item.name).dtype == item.dtype);
    CHECK(file.entry(item.name).shape == item.shape);
    const auto read = file.bytes(item.name);
    CHECK(std::equal(read.begin(), read.end(), item.bytes.begin(), item.bytes.end()));
  }
  CHECK(file.entry("tF64").begin == 0);
  CHECK(file.entry("tI64").begin == 48);
  CHECK(file.entry("tU64").begin == 96);
  CHECK(file.entry("tF32").begin == 144);
  CHECK(file.contains("scalar"));
  CHECK_FALSE(file.contains("none"));
  CHECK_THROWS_WITH(file.entry("none"), "safetensors file '" + folder / "all" + "' has no tensor 'none'");
}

TEST_CASE("produced bytes give the same file, and are released chunk by chunk") {
  constexpr size_t kPiece = 7, kTensors = 5;
  const TempFolder folder;
  std::vector<std::string> data;
  for (size_t i = 0; i < kTensors; ++i) data.push_back(std::string(8 * (10 * i + 3), static_cast<char>('a' + i)));
  size_t live_bytes = 0, most_bytes = 0;
  std::vector<std::string> order;
  const auto produced = [&](std::string name, const std::string& text) {
    Item item{name, Dtype::f64, {static_cast<int64_t>(text.size() / 8)}};
    item.produce = [&, name](const Sink& sink) {
      order.push_back(name);
      for (size_t begin = 0; begin < text.size(); begin += kPiece) {
        auto piece = text.substr(begin, kPiece);
        live_bytes += piece.size();
        most_bytes = std::max(most_bytes, live_bytes);
        sink(bytes_of(piece));
        live_bytes -= piece.size();
        piece.assign(piece.size(), '?');  // bytes are valid during the call only
      }
    };
    return item;
  };
  std::vector<Item> held, given;
  for (size_t i = kTensors; i-- > 0;) {
    const auto name = "t" + std::to_string(i);
    held.push_back({name, Dtype::f64, {static_cast<int64_t>(data[i].size() / 8)}, bytes_of(data[i])});
    given.push_back(i % 2 == 0 ? produced(name, data[i]) : held.back());
  }
  const Written expected = write(folder / "held", held, {{"k", "v"}});
  const Written written = write(folder / "given", given, {{"k", "v"}});
  CHECK(read_text(folder / "given") == read_text(folder / "held"));
  CHECK(written.size_bytes == expected.size_bytes);
  CHECK(written.block_hashes == expected.block_hashes);
  CHECK(order == std::vector<std::string>{"t0", "t2", "t4"});
  CHECK(most_bytes == kPiece);
}

namespace {

/// Bytes of a file that are in the page cache.
int64_t cached_bytes(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  const auto size = static_cast<size_t>(file.size_bytes());
  void* const mapped = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.fd(), 0);
  REQUIRE(mapped != MAP_FAILED);
  std::vector<unsigned char> pages((size + 4095) / 4096);
  REQUIRE(::mincore(mapped, size, pages.data()) == 0);
  ::munmap(mapped, size);
  return 4096 * std::ranges::count_if(pages, [](unsigned char page) { return (page & 1) != 0; });
}

}  // namespace

TEST_CASE("of a large file at most two windows of 64 MiB stay in the page cache, and every byte is written") {
  const TempFolder folder;
  const auto path = folder / "large.safetensors";
  constexpr int64_t kMiB = int64_t{1} << 20;
  std::vector<std::byte> bytes(static_cast<size_t>(200 * kMiB + 5));
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i % 251);
  const auto written = write(path, {{"x", Dtype::u8, {std::ssize(bytes)}, bytes, {}}}, {});
  struct statfs system {};
  REQUIRE(::statfs(path.c_str(), &system) == 0);
  const bool in_memory = system.f_type == TMPFS_MAGIC;  // a file there is its pages
  CHECK(cached_bytes(path) <= (in_memory ? 201 * kMiB : 128 * kMiB + 4096));
  const File file(path);
  CHECK(std::ranges::equal(file.bytes("x"), bytes));
  CHECK(written.size_bytes == std::ssize(file.all_bytes()));
}

TEST_CASE("an error names a tensor with too few or too many produced bytes") {
  const TempFolder folder;
  const std::string data(16, 'x');
  const size_t pieces = GENERATE(0, 1, 3);
  Item item{"a", Dtype::f32, {8}};
  item.produce = [&](const Sink& sink) {
    for (size_t i = 0; i < pieces; ++i) sink(bytes_of(data));
  };
  const auto says = "tensor 'a': " + std::to_string(16 * pieces) + " bytes produced, dtype and shape make 32";
  CHECK_THROWS_WITH(write(folder / "bad", {item}, {}), Catch::Contains(says));
  item.bytes = bytes_of(data);
  CHECK_THROWS_WITH(write(folder / "bad", {item}, {}), Catch::Contains("it has both bytes and a producer"));
}

TEST_CASE("the writer refuses what the reader refuses") {
  const TempFolder folder;
  const std::string data(8, 'x');
  const auto refused = [&](std::vector<Item> items, const std::string& rule) {
    CHECK_THROWS_WITH(write(folder / "bad", std::move(items), {}), Catch::Contains(rule));
  };
  refused({{"a", Dtype::f32, {3}, bytes_of(data)}}, "tensor 'a': 8 bytes given, dtype and shape make 12");
  refused({{"a", Dtype::f32, {-2}, bytes_of(data)}}, "negative or over 63 bits");
  refused({{"a", Dtype::f32, {2}, bytes_of(data)}, {"a", Dtype::u8, {8}, bytes_of(data)}}, "two tensors are named 'a'");
  refused({{"__metadata__", Dtype::f32, {2}, bytes_of(data)}}, "reserved");
  refused({{"\xff", Dtype::f32, {2}, bytes_of(data)}}, "not UTF-8");
  CHECK_THROWS_WITH(write("/dev/full", {{"a", Dtype::f32, {2}, bytes_of(data)}}, {}),
                    "safetensors file '/dev/full': cannot write '/dev/full': No space left on device");
}

TEST_CASE("a header's length is checked against limit and file") {
  CHECK(verdict("") == "0 bytes are too few for a header");
  CHECK(verdict("1234567") == "7 bytes are too few for a header");
  const std::string past_end =
      "a header of 3 bytes is over the limit or past the file's end: it is not a safetensors file, or was cut short";
  CHECK(verdict(std::string("\x03\0\0\0\0\0\0\0{}", 10)) == past_end);
  CHECK(verdict(std::string(8, '\xff')) ==
        "a header of 18446744073709551615 bytes is over the limit or past the file's end: it is not a "
        "safetensors file, or was cut short");
}

TEST_CASE("only strict headers are accepted") {
  const std::string good = tensor("F32", "[2]", "[0,8]");
  CHECK(verdict_of_header("{\"a\":" + good + "}", 8) == "accepted");
  CHECK(verdict_of_header("{\"a\":" + good + "}   ", 8) == "accepted");
  CHECK(verdict_of_header(" {\"a\":" + good + "}", 8) == "the header does not start with '{'");
  CHECK(verdict_of_header("[]", 0) == "the header does not start with '{'");
  CHECK(verdict_of_header("", 0) == "the header does not start with '{'");
  CHECK(verdict_of_header("{\"a\":", 0).starts_with("the header is not JSON: "));
  CHECK(verdict_of_header("{} {}", 0).starts_with("the header is not JSON: "));
  CHECK(verdict_of_header("{\"\xff\":" + good + "}", 8).starts_with("the header is not JSON: "));
  CHECK(verdict_of_header("{\"a\":" + good + ",\"a\":" + good + "}", 8) == "duplicate key 'a'");
  CHECK(verdict_of_header(R"({"a":{"dtype":"U8","dtype":"U8","shape":[],"data_offsets":[0,1]}})", 1) ==
        "duplicate key 'dtype'");
  CHECK(verdict_of_header("{\"a\":" + tensor("F32", std::string(9999, '[') + std::string(9999, ']'), "[0,8]") + "}",
                          8) == "the header is nested too deep");
}

TEST_CASE("every field of a tensor is checked") {
  const auto entry = [](const std::string& value) { return verdict_of_header("{\"a\":" + value + "}", 8); };
  const std::string form = "entry 'a': a tensor has dtype, shape, data_offsets, and no more";
  CHECK(entry("7") == form);
  CHECK(entry(R"({"dtype":"F32","shape":[2]})") == form);
  CHECK(entry(R"({"dtype":"F32","shape":[2],"offsets":[0,8]})") == form);
  CHECK(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1})") == form);
  CHECK(entry(R"({"dtype":7,"shape":[2],"data_offsets":[0,8]})") == "entry 'a': dtype must be a string");
  CHECK(entry(tensor("F31", "[2]", "[0,8]")) == "entry 'a': unknown dtype 'F31'");
  CHECK(entry(tensor("f32", "[2]", "[0,8]")) == "entry 'a': unknown dtype 'f32'");
  CHECK(entry(tensor("F32", "2", "[0,8]")) == "entry 'a': shape and data_offsets must be lists");
  CHECK(entry(tensor("F32", "[-2]", "[0,8]")) == "entry 'a': -2 is not a size");
  CHECK(entry(tensor("F32", "[2.0]", "[0,8]")) == "entry 'a': 2.0 is not a size");
  CHECK(entry(tensor("F32", "[\"2\"]", "[0,8]")) == "entry 'a': \"2\" is not a size");
  CHECK(entry(tensor("F32", "[18446744073709551615]", "[0,8]")) == "entry 'a': 18446744073709551615 is not a size");
  CHECK(entry(tensor("F32", "[4294967296,4294967296]", "[0,8]")) == "entry 'a': its size is negative or over 63 bits");
  CHECK(entry(tensor("F32", "[2]", "[0]")) == "entry 'a': data_offsets must be two numbers");
  CHECK(entry(tensor("F32", "[3]", "[0,8]")) == "entry 'a': data_offsets span 8 bytes, dtype and shape make 12");
  CHECK(entry(tensor("F32", "[2]", "[8,0]")) == "entry 'a': data_offsets span -8 bytes, dtype and shape make 8");
  CHECK(verdict_of_header(R"({"__metadata__":{"a":1}})", 0) == "entry '__metadata__': 'a' must be a string");
  CHECK(verdict_of_header(R"({"__metadata__":[]})", 0) == "entry '__metadata__': it must be an object");
}

TEST_CASE("tensors cover the data exactly") {
  const auto pair = [](const std::string& a, const std::string& b, size_t data_bytes) {
    return verdict_of_header("{\"a\":" + tensor("U8", "[4]", a) + ",\"b\":" + tensor("U8", "[4]", b) + "}", data_bytes);
  };
  CHECK(pair("[0,4]", "[4,8]", 8) == "accepted");
  CHECK(pair("[4,8]", "[0,4]", 8) == "accepted");
  CHECK(pair("[0,4]", "[5,9]", 9) == "tensor 'b' begins at 5, which leaves a hole after 4");
  CHECK(pair("[1,5]", "[5,9]", 9) == "tensor 'a' begins at 1, which leaves a hole after 0");
  CHECK(pair("[0,4]", "[3,7]", 7) == "tensor 'b' begins at 3, which leaves an overlap before 4");
  CHECK(pair("[0,4]", "[0,4]", 4).ends_with("which leaves an overlap before 4"));
  CHECK(pair("[0,4]", "[4,8]", 7) ==
        "tensors take 8 bytes, the file has 7: it was cut short, or not downloaded to its end");
  CHECK(pair("[0,4]", "[4,8]", 9) == "tensors take 8 bytes, the file has 9");
  CHECK(verdict_of_header("{}", 1) == "tensors take 0 bytes, the file has 1");
  CHECK(verdict_of_header("{\"a\":" + tensor("F32", "[0,7]", "[0,0]") + "}", 0) == "accepted");
}

TEST_CASE("a truncated file, or one with a changed header byte, gives no bytes beyond its end") {
  const TempFolder folder;
  const std::string data(48, 'd');
  write(folder / "x",
        {{"a", Dtype::f32, {2, 3}, bytes_of(data).first(24)}, {"b", Dtype::f64, {3}, bytes_of(data).first(24)}},
        {{"k", "v"}});
  const std::string text = read_text(folder / "x");
  for (size_t length = 0; length < text.size(); ++length) {
    INFO(length);
    CHECK(verdict(text.substr(0, length)) != "accepted");
  }
  CHECK(verdict(text + '\0') != "accepted");
  const RandomStream random(2, "safetensors");
  int refused = 0;
  for (uint64_t i = 0; i < 500; ++i) {
    std::string damaged = text;
    damaged[random.bits(2 * i) % (text.size() - 48)] = static_cast<char>(random.bits(2 * i + 1));
    refused += verdict(damaged) != "accepted";
  }
  CHECK(refused > 350);
}

}  // namespace olmoe::safetensors
