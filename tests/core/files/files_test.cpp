#include "core/files/files.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/json_lines.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/stopwatch.h"
#include "support/catch.h"
#include "support/file_size_limit.h"
#include "support/temp_folder.h"

namespace olmoe {
namespace {

/// What a child process that runs `step` writes to its standard error.
template <class Step>
std::string standard_error_of(const std::string& path, const Step& step) {
  const pid_t child = ::fork();
  if (child == 0) {
    const bool redirected = std::freopen(path.c_str(), "w", stderr) != nullptr;
    if (redirected) step();
    ::_exit(redirected ? 0 : 1);
  }
  int status = -1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(status == 0);
  return read_text(path);
}

}  // namespace

TEST_CASE("a file is replaced atomically, without leftovers") {
  const TempFolder folder;
  const std::string path = folder.add("a.txt", "old and much longer");
  write_text_atomic(path, "new\n");
  CHECK(read_text(path) == "new\n");
  CHECK_FALSE(std::filesystem::exists(path + ".tmp"));
  write_text_atomic(path, "");
  CHECK(read_text(path).empty());
  const std::string big(3'000'000, 'x');
  write_text_atomic(folder / "big", big);
  CHECK(read_text(folder / "big") == big);
}

TEST_CASE("file errors name the path and the reason") {
  const TempFolder folder;
  CHECK_THROWS_WITH(read_text(folder / "none"), "cannot open '" + folder / "none" + "': No such file or directory");
  CHECK_THROWS_WITH(read_text(folder.add("five", "12345"), 4), "cannot read '" + folder / "five" + "': over 4 bytes");
  CHECK(read_text(folder / "five", 5) == "12345");
  CHECK_THROWS_AS(write_text_atomic(folder / "no/such/folder", "x"), Error);
  CHECK_THROWS_AS(fsync_folder(folder / "five"), Error);
  CHECK_THROWS_WITH(write_text_atomic("/dev/full/x", "x"), Catch::Contains("Not a directory"));
}

// Digits as xxhsum -H2 (XXH3, 128 bits) prints them.
TEST_CASE("existing_folder is the nearest ancestor that exists") {
  const TempFolder folder;
  const auto file = folder.add("there/file", "x");
  CHECK(existing_folder(folder / "there/not/yet") == folder / "there");
  CHECK(existing_folder(folder / "there") == folder / "there");
  CHECK(existing_folder(file + "/below") == file);
  CHECK(existing_folder("/no_such_folder/run") == "/");
}

TEST_CASE("hashes are XXH3 and do not depend on how the bytes are chunked") {
  CHECK(Hasher().hex() == "99aa06d3014798d86001c324468d497f");
  CHECK(hash64("") == 0x2d06800538d394c2);
  CHECK(hash64("a", 1) != hash64("a", 2));
  const TempFolder folder;
  std::string text;
  for (int i = 0; i < 2'500'000; ++i) text += static_cast<char>(i * 7 + i / 251);
  Hasher in_parts;
  const auto bytes = std::as_bytes(std::span(text));
  for (size_t at = 0; at < bytes.size(); at += 777'777)
    in_parts.update(bytes.subspan(at, std::min<size_t>(777'777, bytes.size() - at)));
  CHECK(in_parts.hex() == hash_file(folder.add("bytes", text)));
  text[1'234'567] ^= 1;
  CHECK(in_parts.hex() != hash_file(folder.add("bytes", text)));
  CHECK_THROWS_AS(hash_file(folder / "none"), Error);
}

TEST_CASE("a JSON line keeps the order of keys and every bit of doubles") {
  JsonLine line;
  line.add("step", 3).add("lr", 6e-4).add("third", 1.0 / 3).add("nan", std::nan("")).add("inf", -INFINITY);
  line.add("text", "a\"b\\\n\xc3\xbc").add("counts", std::vector<int64_t>{1, -2}).add("none", std::vector<double>{});
  line.add("losses", std::vector<double>{0.1, std::nan("")});
  CHECK(line.str() ==
        "{\"step\":3,\"lr\":6e-04,\"third\":0.3333333333333333,\"nan\":null,\"inf\":null,"
        "\"text\":\"a\\\"b\\\\\\n\xc3\xbc\",\"counts\":[1,-2],\"none\":[],\"losses\":[0.1,null]}");
  CHECK(JsonLine().str() == "{}");
  constexpr std::array<int64_t, 3> kShape{2, 1, 3}, kEmpty{2, 0, 3};
  CHECK(JsonLine().add("in", {1, 2, 3, 4, 5, -6}, kShape).str() == "{\"in\":[[[1,2,3]],[[4,5,-6]]]}");
  CHECK(JsonLine().add("in", {}, kEmpty).str() == "{\"in\":[[],[]]}");
  CHECK_THROWS_WITH(JsonLine().add("in", {1, 2}, kShape), Catch::Contains("in: 2 numbers for lists of 6"));
  CHECK(JsonLine().add("bad", "\xff").str() == "{\"bad\":\"\xef\xbf\xbd\"}");
}

TEST_CASE("a file of JSON lines is truncated to a step and loses an incomplete last line") {
  const TempFolder folder;
  const std::string whole = "{\"run\":\"x\"}\n{\"step\":1}\n{\"step\":2,\"eval\":1}\n{\"step\":3}\n{\"step\":2}\n";
  const std::string path = folder.add("metrics.jsonl", whole + "{\"step\":2,\"lo");
  { JsonLinesFile(path, 2).write(JsonLine().add("step", 3)); }
  CHECK(read_text(path) == "{\"run\":\"x\"}\n{\"step\":1}\n{\"step\":2,\"eval\":1}\n{\"step\":2}\n{\"step\":3}\n");
  folder.add("metrics.jsonl", whole + "{\"st");
  { JsonLinesFile(path, -1).write(JsonLine().add("step", 9)); }
  CHECK(read_text(path) == whole + "{\"step\":9}\n");
  { JsonLinesFile(path, 0); }
  CHECK(read_text(path) == "{\"run\":\"x\"}\n");
  { JsonLinesFile(folder / "new.jsonl", 5).write(JsonLine().add("step", 6)); }
  CHECK(read_text(folder / "new.jsonl") == "{\"step\":6}\n");
}

TEST_CASE("lines that are not JSON are moved away with a warning") {
  const TempFolder folder;
  const std::string noise("noise \0\xff", 8);
  const auto path = folder.add("metrics.jsonl", "{\"step\":1}\n" + noise + "\n[1]\n{\"step\":2}\n{\"step\":3}\n\n");
  CHECK(JsonLinesFile(path, 2).last_kept() == "{\"step\":2}");
  CHECK(read_text(path) == "{\"step\":1}\n{\"step\":2}\n");
  CHECK(read_text(path + ".damaged") == noise + "\n[1]\n\n");
  folder.add("metrics.jsonl", "more\n");
  CHECK(JsonLinesFile(path, 2).last_kept().empty());
  CHECK(read_text(path + ".damaged") == noise + "\n[1]\n\nmore\n");
}

TEST_CASE("a file that cannot be replaced stays, without leftovers") {
  const TempFolder folder;
  const auto path = folder.add("a.txt", "old");
  {
    const test::FileSizeLimit disk_is_full(5);
    CHECK_THROWS_WITH(write_text_atomic(path, "longer"),
                      "cannot write '" + path + ".tmp': File too large (ulimit -f allows 5 bytes a file)");
  }
  CHECK(read_text(path) == "old");
  CHECK_FALSE(std::filesystem::exists(path + ".tmp"));
  std::filesystem::create_directory(folder / "b");
  CHECK_THROWS_WITH(write_text_atomic(folder / "b", "x"), Catch::Contains("cannot rename"));
  CHECK_FALSE(std::filesystem::exists(folder / "b.tmp"));
}

TEST_CASE("bytes are written at a place, a file is cut, and errors keep errno") {
  const TempFolder folder;
  const auto path = folder.add("a.txt", "0123456789");
  const FileDescriptor file(path, O_RDWR);
  file.write_at(3, std::as_bytes(std::span(std::string_view("abc"))));
  CHECK(read_text(path) == "012abc6789");
  file.truncate(5);
  CHECK(read_text(path) == "012ab");
  const auto reason_of = [](const auto& work) {
    try {
      work();
    } catch (const FileError& error) {
      return error.reason();
    }
    return -1;
  };
  CHECK(reason_of([&] { FileDescriptor(folder / "none", O_RDONLY); }) == ENOENT);
  const FileDescriptor read_only(path, O_RDONLY);
  CHECK(reason_of([&] { read_only.truncate(1); }) == EINVAL);
  CHECK(reason_of([&] { read_only.write_at(0, std::as_bytes(std::span(std::string_view("x")))); }) == EBADF);
  CHECK(read_text(path) == "012ab");
  CHECK_NOTHROW(FileDescriptor("/dev/full", O_WRONLY).truncate(0));  // not a regular file
}

TEST_CASE("unused_name is the first free name") {
  const TempFolder folder;
  CHECK(unused_name(folder / "a") == folder / "a.old-1");
  folder.add("a.old-1", "");
  std::filesystem::create_symlink("nowhere", folder / "a.old-2");
  CHECK(unused_name(folder / "a") == folder / "a.old-3");
}

TEST_CASE("lines wait while a disk is full, and the file says why") {
  JsonLinesFile file("/dev/full", -1);
  file.write(JsonLine().add("step", 1));
  file.write(JsonLine().add("step", 2));
  CHECK(file.waiting() == 2);
  CHECK(file.flush() == 2);
  CHECK(file.problem() == "cannot write '/dev/full': No space left on device");
}

TEST_CASE("a log line has time, level and text, and the rank if there are several") {
  const TempFolder folder;
  const std::string alone = standard_error_of(folder / "alone", [] {
    log::info("loss {:.2f} {{}}", 1.5);
    log::debug("not shown");
    log::set_level(log::Level::debug);
    log::debug("shown");
  });
  const std::string time = "[0-9-]{10} [0-9:.]{12}";
  CHECK_THAT(alone, Catch::Matches(time + " info loss 1\\.50 \\{\\}\n" + time + " debug shown\n"));
  const std::string third = standard_error_of(folder / "third", [] {
    log::set_rank(3, 4);
    log::info("silent on this rank");
    log::warn("careful");
    log::error("failed");
  });
  CHECK_THAT(third, Catch::Matches(time + " rank 3 warning careful\n" + time + " rank 3 error failed\n"));
}

TEST_CASE("a stopwatch measures elapsed time") {
  Stopwatch stopwatch;
  ::usleep(2000);
  const double first_s = stopwatch.elapsed_s();
  CHECK(first_s >= 0.002);
  CHECK(stopwatch.elapsed_s() >= first_s);
  stopwatch.restart();
  ::usleep(1000);
  CHECK(stopwatch.elapsed_s() >= 0.001);
}

}  // namespace olmoe
