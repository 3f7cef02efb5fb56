#include "data/token_files.h"

#include <sys/stat.h>

#include <chrono>

#include "core/files/files.h"
#include "support/catch.h"
#include "support/lowered_limit.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::LoweredLimit;
using test::message_of;
using test::TokenFolder;

namespace {

constexpr int64_t kAnyId = 0;

constexpr int64_t kLateOffender = 5000;

/// 80,000 bytes, of which 65,536 are sampled: token 5000, between two samples, is `id`, the
/// others 1.
std::vector<uint16_t> late_offender(uint16_t id) {
  std::vector<uint16_t> ids(40000, 1);
  ids[kLateOffender] = id;
  return ids;
}

std::string open_message(const std::string& path, TokenDtype dtype = TokenDtype::uint16) {
  return message_of<DataError>([&] { TokenFile(path, dtype, kAnyId); });
}

std::string fingerprint_of(const std::vector<std::string>& paths, int64_t sequence_length = 4) {
  return TokenDataset(paths, TokenDtype::uint16, sequence_length, kAnyId).fingerprint();
}

}  // namespace

TEST_CASE("a token file reads ids of both types as int64") {
  TokenFolder folder;
  const std::vector<uint16_t> narrow{5, 6, 7, 50279, 65535};
  const std::vector<uint32_t> wide{100277, 0, 4294967295u};
  const TokenFile narrow_file(folder.write("a.npy", narrow), TokenDtype::uint16, kAnyId);
  const TokenFile wide_file(folder.write("b.npy", wide), TokenDtype::uint32, kAnyId);
  CHECK(narrow_file.num_tokens() == 5);
  CHECK(narrow_file.size_bytes() == 10);
  CHECK(wide_file.num_tokens() == 3);

  std::vector<int64_t> ids(3);
  narrow_file.read(2, ids);
  CHECK(ids == std::vector<int64_t>{7, 50279, 65535});
  wide_file.read(0, ids);
  CHECK(ids == std::vector<int64_t>{100277, 0, 4294967295});
}

TEST_CASE("reading outside a token file is refused") {
  TokenFolder folder;
  const TokenFile file(folder.write("a.npy", counting(10)), TokenDtype::uint16, kAnyId);
  std::vector<int64_t> ids(4);
  CHECK_NOTHROW(file.read(6, ids));
  CHECK_THROWS_AS(file.read(7, ids), Error);
  CHECK_THROWS_AS(file.read(-1, ids), Error);
}

TEST_CASE("the bytes of dolma's writer are read") {
  TokenFolder folder;
  const std::vector<uint8_t> bytes{0x05, 0, 0x06, 0, 0x07, 0, 0x67, 0xc4, 0x09, 0, 0x67, 0xc4};
  const TokenFile file(folder.write("part-0-00000.npy", bytes), TokenDtype::uint16, kAnyId);
  std::vector<int64_t> ids(6);
  file.read(0, ids);
  CHECK(ids == std::vector<int64_t>{5, 6, 7, 50279, 9, 50279});
}

TEST_CASE("files that cannot be token files are refused with path and reason") {
  TokenFolder folder;
  const std::string missing = folder.path("missing.npy");
  CHECK(open_message(missing) ==
        missing + ": No such file or directory; check data.paths, data.paths_file and data.root");
  CHECK(open_message(folder.path("")) == folder.path("") + ": is a folder; list the token files in it");

  const std::string empty = folder.write<uint16_t>("empty.npy", {});
  CHECK(open_message(empty) == empty + ": is empty; remove it or tokenize again");

  const std::string odd = folder.write<uint8_t>("odd.npy", {1, 2, 3, 4, 5, 6});
  CHECK(open_message(odd) == "");
  CHECK(open_message(odd, TokenDtype::uint32) ==
        odd +
            ": 6 bytes are not a multiple of 4, the size of a uint32 id; check data.dtype, or the "
            "file is cut short");

  const std::string loop = folder.path("loop.npy");
  std::filesystem::create_symlink(loop, loop);
  CHECK(open_message(loop).find("Too many levels of symbolic links") != std::string::npos);

  const std::string pipe = folder.path("pipe.npy");
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(open_message(pipe) == pipe + ": is not a regular file");

  const std::string numpy = folder.write<char>("header.npy", {'\x93', 'N', 'U', 'M', 'P', 'Y', 1, 0});
  CHECK(open_message(numpy) == numpy + ": is a NumPy array with a header; save its bytes alone (tofile)");
}

TEST_CASE("the first id outside the vocabulary is found at every position") {
  TokenFolder folder;
  std::vector<uint32_t> ids(5000, 263);
  const int64_t offender = GENERATE(0, 1, 1023, 1024, 3071, 4095, 4096, 4999);
  ids[static_cast<size_t>(offender)] = 70123;
  ids.back() = 80000;
  if (offender == 4999) ids.back() = 70123;
  const auto path = folder.write("ids.npy", ids);
  CHECK(message_of<DataError>([&] { TokenFile(path, TokenDtype::uint32, 264).read_all(); }) ==
        fmt::format("{}: id 70123 at token {} (byte {}) is outside the vocabulary of 264; check data.dtype "
                    "(uint32), the tokenizer and model.vocab_size",
                    path, offender, 4 * offender));
  CHECK_NOTHROW(TokenFile(path, TokenDtype::uint32, 80001).read_all());
}

TEST_CASE("an id equal to the vocabulary size is outside the vocabulary, one less is inside") {
  TokenFolder folder;
  const auto path = folder.write("ids.npy", counting(264));
  CHECK_NOTHROW(TokenFile(path, TokenDtype::uint16, 264).read_all());
  CHECK_THROWS_AS(TokenFile(path, TokenDtype::uint16, 263).read_all(), DataError);
}

TEST_CASE("a dataset has the whole sequences of each file, in path order, without tails") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(11));       // 2 sequences, tail 3
  const auto b = folder.write("b.npy", counting(3, 100));   // none
  const auto c = folder.write("c.npy", counting(4, 200));   // 1, no tail
  const auto d = folder.write("d.npy", counting(15, 300));  // 3, tail 3
  const TokenDataset dataset({a, b, c, d}, TokenDtype::uint16, 4, 400);
  REQUIRE(dataset.num_sequences() == 6);
  CHECK(dataset.num_tokens() == 24);

  const std::vector<int64_t> first_ids{0, 4, 200, 300, 304, 308};
  std::vector<int64_t> ids(4);
  for (int64_t i = 0; i < 6; ++i) {
    dataset.read(i, ids);
    const int64_t first = first_ids[static_cast<size_t>(i)];
    CHECK(ids == std::vector<int64_t>{first, first + 1, first + 2, first + 3});
  }
  CHECK_THROWS_AS(dataset.read(6, ids), Error);
  CHECK_THROWS_AS(dataset.read(-1, ids), Error);
  ids.resize(5);
  CHECK_THROWS_AS(dataset.read(0, ids), Error);
}

TEST_CASE("a dataset without a whole sequence is refused") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(7));
  CHECK(message_of<DataError>([&] { TokenDataset({a}, TokenDtype::uint16, 8, 100); }) ==
        "no token file (1 in all, the first is " + a +
            ") holds a whole sequence of 8 tokens; lower data.sequence_length "
            "or add data");
  CHECK(message_of<DataError>([&] { TokenDataset({}, TokenDtype::uint16, 8, 100); }) ==
        "no token files; name some in data.paths or data.paths_file");
}

TEST_CASE("all problems of all files are reported at once") {
  TokenFolder folder;
  const auto good = folder.write("good.npy", counting(8));
  const auto high = folder.write("high.npy", counting(8, 96));
  const auto higher = folder.write("higher.npy", counting(8, 200));
  // Found in the samples, before anything is read whole.
  const auto bad_ids = message_of<DataError>([&] { TokenDataset({high, good, higher}, TokenDtype::uint16, 4, 100); });
  CHECK(bad_ids.starts_with("2 of 3 token files cannot be used:\n  " + high + ": id 100 at token 4 (byte 8)"));
  CHECK(bad_ids.find("\n  " + higher + ": id 200 at token 0 (byte 0)") != std::string::npos);

  // A missing file is reported before any id is read.
  const auto missing = folder.path("missing.npy");
  const auto message = message_of<DataError>([&] { TokenDataset({high, missing}, TokenDtype::uint16, 4, 100); });
  CHECK(message.starts_with("1 of 2 token files cannot be used:\n  " + missing + ": No such file"));
  CHECK(message.find("high.npy") == std::string::npos);
  CHECK(
      message.ends_with("\nscripts/make_text_tokens.py makes those of configs/tiny-cpu.yaml, scripts/tokenize.py "
                        "those of your own text: see docs/quickstart.md and docs/data.md"));

  // A wrong dtype shows in the size of one file and the ids of another: both are named.
  const auto odd = folder.write("odd.npy", counting(7));
  const auto wide = message_of<DataError>([&] { TokenDataset({odd, good}, TokenDtype::uint32, 4, 100); });
  CHECK(wide.starts_with("2 of 2 token files cannot be used:\n  " + odd + ": 14 bytes are not a multiple of 4"));
  CHECK(wide.find("\n  " + good + ": id 65536 ") != std::string::npos);
  CHECK(wide.find("make_text_tokens") == std::string::npos);
}

TEST_CASE("twenty problems are listed, the others are counted") {
  TokenFolder folder;
  std::vector<std::string> paths;
  for (int i = 0; i < 23; ++i) paths.push_back(folder.path(fmt::format("missing_{:02}.npy", i)));
  const auto message = message_of<DataError>([&] { TokenDataset(paths, TokenDtype::uint16, 4, 100); });
  CHECK(message.find("missing_19.npy") != std::string::npos);
  CHECK(message.find("missing_20.npy") == std::string::npos);
  CHECK(message.find("\n  and 3 more\n") != std::string::npos);
}

TEST_CASE("the files to read whole are divided over parts") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(8));
  const auto b = folder.write("b.npy", late_offender(100));
  const auto c = folder.write("c.npy", counting(8, 10));
  const auto d = folder.write("d.npy", late_offender(200));
  const TokenDataset dataset({a, b, c, d}, TokenDtype::uint16, 4, 100);
  const auto hashes = dataset.read_all(0, 2);
  CHECK(hashes == std::vector<std::string>{hash_file(a), "", hash_file(c), ""});
  CHECK_NOTHROW(dataset.read_all(4, 5));  // more parts than files
  const auto message = message_of<DataError>([&] { dataset.read_all(1, 2); });
  CHECK_THAT(message, Catch::StartsWith("2 of 4 token files cannot be used:\n  " + b + ": id 100 ") &&
                          Catch::Contains(d + ": id 200 "));
  CHECK(message_of<DataError>([&] { dataset.read_all(); }) == message);
}

TEST_CASE("an id outside the vocabulary that is in no sample is refused when it is read") {
  TokenFolder folder;
  const auto path = folder.write("ids.npy", late_offender(100));
  const TokenDataset dataset({path}, TokenDtype::uint16, 8, 100);
  std::vector<int64_t> ids(8);
  CHECK_NOTHROW(dataset.read(kLateOffender / 8 - 1, ids));
  CHECK(message_of<DataError>([&] { dataset.read(kLateOffender / 8, ids); }) ==
        fmt::format("{}: id 100 at token {} (byte {}) is outside the vocabulary of 100; check "
                    "data.dtype (uint16), the tokenizer and model.vocab_size",
                    path, kLateOffender, 2 * kLateOffender));
}

TEST_CASE("the fingerprint depends on order, size, content, names and sequence length") {
  TokenFolder folder;
  auto ids = counting(40000);  // 80,000 bytes: sampled, not read whole
  const auto a = folder.write("a.npy", ids);
  const auto b = folder.write("b.npy", counting(40, 7));
  const std::string before = fingerprint_of({a, b});
  CHECK(before.size() == 32);
  CHECK(fingerprint_of({a, b}) == before);
  CHECK(fingerprint_of({b, a}) != before);
  CHECK(fingerprint_of({a, b}, 5) != before);
  CHECK(fingerprint_of({a}) != before);
  CHECK(TokenDataset({a, b}, TokenDtype::uint32, 4, kAnyId).fingerprint() != before);

  auto changed = counting(40, 7);
  changed[20] = 8;
  folder.write("b.npy", changed);
  CHECK(fingerprint_of({a, b}) != before);
  folder.write("b.npy", counting(41, 7));
  CHECK(fingerprint_of({a, b}) != before);
  folder.write("b.npy", counting(40, 7));
  CHECK(fingerprint_of({a, b}) == before);

  ids.back() = 1;
  folder.write("a.npy", ids);
  CHECK(fingerprint_of({a, b}) != before);
  folder.write("a.npy", counting(40000, 1));
  CHECK(fingerprint_of({a, b}) != before);
  std::filesystem::rename(folder.path("a.npy"), folder.path("c.npy"));
  folder.write("c.npy", counting(40000));
  CHECK(fingerprint_of({folder.path("c.npy"), b}) != before);
}

TEST_CASE("the fingerprint equals that of earlier versions") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(40000)), b = folder.write("b.npy", counting(40, 7));
  CHECK(fingerprint_of({a, b}) == "3ed5f90ab5106cbf740b565dfcbd8a1d");
  CHECK(TokenDataset({a, b}, TokenDtype::uint32, 4, kAnyId).fingerprint() == "1a850042ff26f9fc644539771827f644");
}

TEST_CASE("a change between the samples is in the hash of all bytes, not in the fingerprint") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", late_offender(1));
  const TokenDataset before({path}, TokenDtype::uint16, 4, kAnyId);
  const auto bytes_before = before.read_all();
  folder.write("a.npy", late_offender(2));
  const TokenDataset after({path}, TokenDtype::uint16, 4, kAnyId);
  CHECK(after.fingerprint() == before.fingerprint());
  CHECK(after.read_all() != bytes_before);
}

TEST_CASE("the fingerprint does not change when data moves to another folder") {
  TokenFolder here, there;
  const auto a = here.write("a.npy", counting(40));
  const auto b = there.write("a.npy", counting(40));
  CHECK(fingerprint_of({a}) == fingerprint_of({b}));
}

TEST_CASE("a token file that is truncated during a run is an error, not the end of the process") {
  TokenFolder folder;
  const bool stays_open = GENERATE(false, true);
  const auto path = folder.write("a.npy", counting(40000));
  const TokenDataset dataset({path}, TokenDtype::uint16, 4, kAnyId, stays_open ? OpenFiles::kept : OpenFiles::none);
  std::vector<int64_t> ids(4);
  CHECK_NOTHROW(dataset.read(9000, ids));
  std::filesystem::resize_file(path, 4096);
  for (const int64_t sequence : {int64_t{9000}, int64_t{0}})  // beyond the end, and before it
    CHECK_THAT(message_of<DataError>([&] { dataset.read(sequence, ids); }),
               Catch::StartsWith(path + ": had 80000 bytes when this run began and has 4096 now; "));
  CHECK_THAT(message_of<DataError>([&] { dataset.read_all(); }),
             Catch::Contains("had 80000 bytes when this run began and has 4096 now"));
  std::filesystem::remove(path);
  if (!stays_open)
    CHECK_THAT(message_of<DataError>([&] { dataset.read(0, ids); }),
               Catch::StartsWith(path + ": No such file or directory"));
}

TEST_CASE("the error for a read beyond the end of a file says where it ends") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(10));
  std::vector<std::byte> bytes(8);
  CHECK(message_of<DataError>([&] { DataFile(path).read(16, bytes); }) ==
        path + ": ends at byte 20, 4 bytes too early; it was truncated during this run");
}

TEST_CASE("a file that is truncated after it was mapped is an error, not the end of the process") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(20000));
  const DataFile file(path);
  std::vector<std::byte> bytes(8);
  CHECK_NOTHROW(file.read(30000, bytes));
  std::filesystem::resize_file(path, 4096);
  for (int access = 0; access < 2; ++access)
    CHECK(message_of<DataError>([&] { file.read(30000, bytes); }) ==
          path + ": ends at byte 4096, 25912 bytes too early; it was truncated during this run");
  CHECK_NOTHROW(file.read(0, bytes));
}

TEST_CASE("tokens that change during a run are an error, a new time of modification alone is not") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(400));
  const TokenDataset dataset({path}, TokenDtype::uint16, 4, kAnyId);
  const auto later = [&] {
    std::filesystem::last_write_time(path, std::filesystem::last_write_time(path) + std::chrono::hours(1));
  };
  std::vector<int64_t> ids(4);
  CHECK_NOTHROW(dataset.read(1, ids));
  later();
  CHECK_NOTHROW(dataset.read(1, ids));
  folder.write("a.npy", counting(400, 1));
  later();
  CHECK_THAT(message_of<DataError>([&] { dataset.read(1, ids); }),
             Catch::StartsWith(path + ": its tokens changed since this run began; "));
}

TEST_CASE("there may be more files than a process can map") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(8));
  const std::vector<std::string> paths(70'000, path);
  const TokenDataset dataset(paths, TokenDtype::uint16, 4, kAnyId, OpenFiles::kept);
  CHECK(dataset.num_sequences() == 140'000);
  std::vector<int64_t> ids(4);
  for (int64_t sequence = 1; sequence < dataset.num_sequences(); sequence += 2) {
    dataset.read(sequence, ids);
    if (ids != std::vector<int64_t>{4, 5, 6, 7}) FAIL("sequence " << sequence);
  }
}

TEST_CASE("files are kept open from the start, up to half of what a process may open") {
  TokenFolder folder;
  std::vector<std::string> paths;
  for (uint16_t i = 0; i < 60; ++i) paths.push_back(folder.write(fmt::format("{}.npy", i), counting(4, i)));
  const LoweredLimit few(RLIMIT_NOFILE, 100);
  const auto open_now = [] {
    const std::filesystem::directory_iterator files("/proc/self/fd");
    return std::distance(begin(files), end(files));
  };
  const auto before = open_now();
  const TokenDataset dataset(paths, TokenDtype::uint16, 4, kAnyId, OpenFiles::kept);
  CHECK(open_now() - before == 50);
  const TokenDataset other(paths, TokenDtype::uint16, 4, kAnyId);
  CHECK(open_now() - before == 50);
}

TEST_CASE("there may be more files than a process can open") {
  TokenFolder folder;
  std::vector<std::string> paths;
  for (uint16_t i = 0; i < 200; ++i) paths.push_back(folder.write(fmt::format("{}.npy", i), counting(4, i)));
  const LoweredLimit few(RLIMIT_NOFILE, 100);
  const TokenDataset dataset(paths, TokenDtype::uint16, 4, kAnyId, OpenFiles::kept);
  std::vector<int64_t> ids(4);
  for (int64_t i = 0; i < dataset.num_sequences(); ++i) CHECK_NOTHROW(dataset.read(i, ids));
}
