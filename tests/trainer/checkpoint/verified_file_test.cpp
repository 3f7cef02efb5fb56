// A rank reads, and verifies, the blocks of a checkpoint that hold what it uses, and no others.
#include "trainer/checkpoint/verified_file.h"

#include <fcntl.h>
#include <unistd.h>

#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/hash.h"
#include "core/process/child_process.h"
#include "core/stopwatch.h"
#include "support/catch.h"
#include "support/lowered_limit.h"
#include "support/temp_folder.h"
#include "trainer/checkpoint/checkpoint_folder.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;

constexpr int64_t kBlock = BlockHasher::kBlockBytes;
constexpr int64_t kNumel = 5 * kBlock / 2 / 4;  // of one file's tensor, fp32: two and a half blocks

void flip_bit_at(const std::string& path, int64_t byte) {
  const FileDescriptor file(path, O_RDWR);
  std::byte value{};
  ENSURE(file.read_at(byte, {&value, 1}) == 1, "no byte {}", byte);
  value ^= std::byte{4};
  ENSURE(::pwrite(file.fd(), &value, 1, byte) == 1, "cannot write");
}

float value_at(int64_t element) { return static_cast<float>(element % 1021) - 0.5F; }

/// A step's folder with `files` files, each with kNumel elements of one weight "w", one after the other.
Manifest write_step(const std::string& folder, int files) {
  fs::create_directories(folder);
  Manifest manifest;
  manifest.step = 1;
  for (int f = 0; f < files; ++f) {
    std::vector<float> values(kNumel);
    for (int64_t i = 0; i < kNumel; ++i) values[static_cast<size_t>(i)] = value_at(f * kNumel + i);
    const auto name = fmt::format("shard_{:05}.safetensors", f);
    const auto written = safetensors::write(
        folder + "/" + name,
        {{fmt::format("weight:w:{}", f * kNumel), safetensors::Dtype::f32, {kNumel}, std::as_bytes(std::span(values))}},
        {});
    manifest.files.push_back(
        {name, written.size_bytes, written.header_bytes, written.header_hash, written.block_hashes});
  }
  manifest.write(folder);
  return manifest;
}

/// Reads elements [begin, end) of "w" and returns the bytes of the files that were read, without headers.
int64_t bytes_to_read(const std::string& folder, int64_t begin, int64_t end) {
  CheckpointReader reader(folder);
  const auto headers = reader.read_bytes();
  auto out = at::empty({end - begin}, at::kFloat);
  reader.read("weight", "w", begin, out);
  for (const int64_t i : {int64_t{0}, (end - begin) / 2, end - begin - 1})
    ENSURE(out.const_data_ptr<float>()[i] == value_at(begin + i), "element {} is wrong", begin + i);
  return reader.read_bytes() - headers;
}

}  // namespace

TEST_CASE("a rank reads the blocks of its own elements, and at most one more at each end of a range") {
  TempFolder folder;
  const auto step = folder / "step";
  const auto manifest = write_step(step, 8);
  int64_t headers = 0;
  for (const auto& file : manifest.files) headers += file.header_bytes;
  CHECK(CheckpointReader(step).read_bytes() == headers);
  CHECK(headers < 8 * 256);
  for (const int ranks : {8, 1, 2, 3, 5, 64}) {
    const int64_t share = 8 * kNumel / ranks;
    for (int rank = 0; rank < ranks; rank += ranks / 4 + 1) {
      const auto read = bytes_to_read(step, rank * share, (rank + 1) * share);
      INFO("rank " << rank << " of " << ranks << ", which uses " << 4 * share << " bytes");
      CHECK(read >= 4 * share);
      CHECK(read < 4 * share + 2 * kBlock);
      if (ranks == 8) CHECK(read == 4 * share);  // the layout that saved it: its own file
    }
  }
}

TEST_CASE("ranges read one after the other read each block once, in the order of the files; a conversion adds none") {
  TempFolder folder;
  const auto step = folder / "step";
  write_step(step, 3);
  for (const auto dtype : {at::kFloat, at::kDouble}) {
    CheckpointReader reader(step);
    const auto headers = reader.read_bytes();
    const int64_t all = 3 * kNumel, piece = GENERATE(999'983, 262'144, 7'864'320);
    for (int64_t begin = 0; begin < all; begin += piece) {
      const auto out = at::empty({std::min(piece, all - begin)}, dtype);
      reader.read("weight", "w", begin, out);
      REQUIRE(out[0].item<double>() == value_at(begin));
      REQUIRE(out[out.numel() - 1].item<double>() == value_at(begin + out.numel() - 1));
    }
    CHECK(reader.read_bytes() - headers == 4 * all);
  }
}

TEST_CASE("what is read is the memory that was hashed: a file that changes after it was opened is damaged, not used") {
  TempFolder folder;
  const auto step = folder / "step", shard = step + "/shard_00000.safetensors";
  const auto manifest = write_step(step, 1);
  CheckpointReader reader(step);
  const auto out = at::empty({kNumel}, at::kFloat);
  CHECK_NOTHROW(reader.read("weight", "w", 0, out));
  flip_bit_at(shard, manifest.files[0].header_bytes + 5);
  CHECK_THROWS_AS(reader.read("weight", "w", 0, out), DamagedCheckpoint);
  fs::resize_file(shard, manifest.files[0].header_bytes + kBlock + 1);
  CHECK_NOTHROW(reader.read("weight", "w", kBlock / 2, at::empty({0}, at::kFloat)));
  CHECK_THROWS_MATCHES(reader.read("weight", "w", kBlock / 4, at::empty({kBlock / 4}, at::kFloat)), DamagedCheckpoint,
                       Catch::Message(fmt::format("{}: it ends at byte {}", shard, fs::file_size(shard))));
}

TEST_CASE("a reader keeps the run that saved a checkpoint from removing it, and any program can") {
  TempFolder folder;
  const auto step = folder / "step_000000001";
  const auto manifest = write_step(step, 1);
  {
    const CheckpointReader one(step), two(step);
    CHECK_FALSE(remove_unread(step));
    CHECK(fs::exists(step + "/manifest.json"));
  }
  {
    const CheckpointReader of_the_run_itself(step, manifest);
    CHECK(remove_unread(step));
  }
  CHECK_FALSE(fs::exists(step));
  write_step(step, 1);
  const auto lock_alone = [&] { return FileLock::try_lock(step + "/manifest.json", FileLock::Kind::exclusive); };
  {
    const ChildProcess other(
        {.text = fmt::format("exec flock --shared {}/manifest.json sleep 60", step), .output = folder / "out"});
    for (const Stopwatch waited; lock_alone() && waited.elapsed_s() < 10;) continue;
    CHECK_FALSE(remove_unread(step));
  }
  auto removing = lock_alone();
  for (const Stopwatch waited; !removing && waited.elapsed_s() < 10;) removing = lock_alone();
  REQUIRE(removing);
  CHECK_THROWS_WITH(CheckpointReader(step), Catch::Contains("is being removed by the run that saved it"));
}

TEST_CASE("damage is found in the blocks that are used, and is named by its bytes") {
  TempFolder folder;
  const auto step = folder / "step", shard = step + "/shard_00001.safetensors";
  const auto manifest = write_step(step, 2);
  const auto data = manifest.files[1].header_bytes;
  flip_bit_at(shard, data + kBlock + 17);
  CHECK(bytes_to_read(step, 0, kNumel) > 0);                 // the other file
  CHECK(bytes_to_read(step, kNumel, kNumel + 9) == kBlock);  // another block
  const auto where = fmt::format("{}: damaged, the hash of bytes {} to {} ", shard, data + kBlock, data + 2 * kBlock);
  CHECK_THROWS_MATCHES(bytes_to_read(step, kNumel, kNumel + kBlock / 4 + 1), DamagedCheckpoint,
                       Catch::Message(where + "is not that in the manifest"));
  CHECK_THROWS_AS(CheckpointReader(step).verify_all(), DamagedCheckpoint);
  flip_bit_at(shard, data + kBlock + 17);
  int64_t last = 0, all = 0;
  CheckpointReader(step).verify_all([&](int64_t done, int64_t of) { last = done, all = of; });
  CHECK(last == all);
  CHECK(all == manifest.files[0].size_bytes + manifest.files[1].size_bytes);
}

TEST_CASE("headers, sizes and files that are gone are damage; what the system refuses is not") {
  TempFolder folder;
  const auto step = folder / "step", shard = step + "/shard_00000.safetensors";
  const auto manifest = write_step(step, 1);
  SECTION("each bit of the header") {
    for (int64_t byte = 0; byte < manifest.files[0].header_bytes; ++byte) {
      flip_bit_at(shard, byte);
      CHECK_THROWS_AS(CheckpointReader(step), DamagedCheckpoint);
      flip_bit_at(shard, byte);
    }
    CHECK_NOTHROW(CheckpointReader(step));
  }
  SECTION("a file that is gone") {
    fs::remove(shard);
    CHECK_THROWS_AS(CheckpointReader(step), DamagedCheckpoint);
  }
  SECTION("a file that was cut") {
    fs::resize_file(shard, 100);
    CHECK_THROWS_AS(CheckpointReader(step), DamagedCheckpoint);
  }
  SECTION("a folder in its place") {
    fs::remove(shard);
    fs::create_directory(shard);
    try {
      CheckpointReader reader(step);
      FAIL("accepted");
    } catch (const DamagedCheckpoint&) {
      FAIL("it is not damage");
    } catch (const CheckpointError&) {
      SUCCEED();
    }
  }
  SECTION("a manifest of a newer format, as one bit of this one makes it, is damaged; a whole one is not") {
    auto text = read_text(step + "/manifest.json");
    const auto at = text.find("\"format_version\": 2");
    REQUIRE(at != std::string::npos);
    text[at + 18] = '3';
    write_text_atomic(step + "/manifest.json", text);
    CHECK_THROWS_AS(CheckpointReader(step), DamagedCheckpoint);
  }
}

// Thread Sanitizer allocates whenever it runs, and ends where it cannot.
TEST_CASE("no room in the address space to map a file is not damage", "[address_limit]") {
  TempFolder folder;
  const auto step = folder / "step";
  write_step(step, 1);
  std::string said = "accepted";
  bool damage = false;
  {
    const test::LoweredLimit limit(RLIMIT_AS, 0);
    try {
      CheckpointReader reader(step);
    } catch (const DamagedCheckpoint&) {
      damage = true;
    } catch (const CheckpointError& error) {
      said = error.what();
    }
  }
  CHECK_FALSE(damage);
  CHECK_THAT(said, Catch::Contains("cannot map: Cannot allocate memory"));
}

TEST_CASE("pieces that overlap, leave a hole, or are not of a state are refused by name") {
  TempFolder folder;
  const std::vector<float> values(8, 1.0F);
  const auto refused = [&](const std::vector<std::pair<std::string, int64_t>>& pieces) {
    const auto step = folder / "step";
    fs::remove_all(step);
    fs::create_directories(step);
    std::vector<safetensors::Item> items;
    for (const auto& [name, numel] : pieces)
      items.push_back(
          {name, safetensors::Dtype::f32, {numel}, std::as_bytes(std::span(values).first(static_cast<size_t>(numel)))});
    const auto written = safetensors::write(step + "/s", std::move(items), {});
    Manifest manifest;
    manifest.files = {{"s", written.size_bytes, written.header_bytes, written.header_hash, written.block_hashes}};
    manifest.write(step);
    try {
      CheckpointReader reader(step);
      return std::string("accepted: ") + std::to_string(reader.tensors().size());
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
  };
  CHECK(refused({{"weight:a:0", 4}, {"weight:a:4", 2}, {"exp_avg:a:0", 6}}) == "accepted: 2");
  CHECK(refused({{"weight:a:0", 4}, {"weight:a:3", 2}}) ==
        "weight:a: a piece begins at element 3, which leaves an overlap before 4");
  CHECK(refused({{"weight:a:0", 4}, {"weight:a:5", 2}}) ==
        "weight:a: a piece begins at element 5, which leaves a hole after 4");
  for (const char* name : {"weights:a:0", "a", "weight:a", "weight:a:-1", "weight:a:1x", ":a:0"})
    CHECK_THAT(refused({{name, 4}}),
               Catch::Contains(fmt::format("tensor '{}' with 1 dimensions is not a flat piece", name)));
}
