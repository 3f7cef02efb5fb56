// Every kind of damage to the files of a checkpoint is found before a value is used.
#include <fcntl.h>
#include <unistd.h>

#include <random>

#include "core/files/file_descriptor.h"
#include "support/checkpoint_fixtures.h"
#include "trainer/checkpoint/checkpoint_reader.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;
namespace fs = std::filesystem;

constexpr int kRanks = 2;

/// What reading every byte and every value of a checkpoint comes to.
enum class Found { nothing, damage, other_error };
Found read_all(const std::string& step) {
  try {
    CheckpointReader reader(step);
    for (const auto& tensor : reader.tensors())
      reader.read(tensor.kind, tensor.name, 0, at::empty({tensor.numel}, at::kFloat));
    reader.verify_all();
    return Found::nothing;
  } catch (const DamagedCheckpoint&) {
    return Found::damage;
  } catch (const Error&) {
    return Found::other_error;
  }
}

/// A file that is open for damage.
class Victim {
 public:
  explicit Victim(const std::string& path) : file_(path, O_RDWR) {}
  int64_t size() const { return file_.size_bytes(); }
  void flip(int64_t byte, int bit) const {
    std::byte value{};
    ENSURE(file_.read_at(byte, {&value, 1}) == 1, "no byte {}", byte);
    value ^= std::byte{1} << bit;
    ENSURE(::pwrite(file_.fd(), &value, 1, byte) == 1, "cannot write");
  }

 private:
  FileDescriptor file_;
};

/// Counts of what was found of each kind.
struct Count {
  int damage = 0, other = 0, nothing = 0;
  void add(Found found) { ++(found == Found::damage ? damage : found == Found::nothing ? nothing : other); }
};

}  // namespace

TEST_CASE("10,000 flips of one bit anywhere in a checkpoint, and every bit of its manifest, are found") {
  TempFolder folder;
  const auto step = folder / "checkpoints/step_000000007";
  save_on(kRanks, folder / "checkpoints", 7);
  REQUIRE(read_all(step) == Found::nothing);
  std::mt19937_64 random(7);
  Count shards, manifest;
  std::vector<Victim> files;
  for (const char* name : {"/shard_00000.safetensors", "/shard_00001.safetensors"}) files.emplace_back(step + name);
  for (int i = 0; i < 10'000; ++i) {
    const auto& file = files[random() % files.size()];
    const auto byte = static_cast<int64_t>(random() % static_cast<uint64_t>(file.size()));
    const int bit = static_cast<int>(random() % 8);
    file.flip(byte, bit);
    shards.add(read_all(step));
    file.flip(byte, bit);
  }
  CHECK(shards.damage == 10'000);
  const Victim text(step + "/manifest.json");
  for (int64_t byte = 0; byte + 1 < text.size(); ++byte)  // but the newline at its end
    for (int bit = 0; bit < 8; ++bit) {
      text.flip(byte, bit);
      manifest.add(read_all(step));
      text.flip(byte, bit);
    }
  CHECK(manifest.damage == 8 * (text.size() - 1));
  CHECK(read_all(step) == Found::nothing);
}

TEST_CASE("files that were cut, whose end is zero, or that are another checkpoint's or run's, are found") {
  TempFolder folder;
  const auto checkpoints = folder / "checkpoints", step = checkpoints + "/step_000000007";
  save_on(kRanks, checkpoints, 7);
  save_on(kRanks, checkpoints, 8);
  run_ranks(kRanks, [&](Communicator& world) {  // another run: other values
    TrainedState other(world, folder / "other");
    other.save(7);
  });
  std::mt19937_64 random(8);
  Count cut, zeroed, swapped;
  for (const char* name : {"/shard_00000.safetensors", "/shard_00001.safetensors", "/manifest.json"}) {
    const auto good = read_text(step + name);
    const auto damaged = [&](const std::string& text, Count& count) {
      write_text_atomic(step + name, text);
      count.add(read_all(step));
    };
    for (int i = 0; i < 200; ++i) {
      const auto size =
          i < 4 ? std::array{size_t{0}, size_t{1}, good.size() / 2, good.size() - 2}.at(static_cast<size_t>(i))
                : random() % (good.size() - 1);
      damaged(good.substr(0, size), cut);
      damaged(good.substr(0, size) + std::string(good.size() - size, '\0'), zeroed);
    }
    damaged(good + "x", cut);
    damaged(read_text(folder / ("other/step_000000007" + std::string(name))), swapped);
    write_text_atomic(step + name, good);
    REQUIRE(read_all(step) == Found::nothing);
  }
  write_text_atomic(step + "/shard_00000.safetensors", read_text(step + "/shard_00001.safetensors"));
  swapped.add(read_all(step));
  CHECK(cut.damage == 603);
  CHECK(zeroed.damage == 600);
  CHECK(swapped.damage == 4);
  CHECK(cut.other + cut.nothing + zeroed.other + zeroed.nothing + swapped.other + swapped.nothing == 0);
}
