// Rates of saving and loading a checkpoint of generated state on one rank, beside plain writes and reads of as many
// bytes, and the memory that they take. The state is a model of OLMoE-1B-7B's widths, of any depth: one piece of memory
// is mapped again and again, so that it may be larger than the machine's memory. Files are dropped from the page cache
// before they are read.
//   checkpoint_speed FOLDER [--layers 5] [--rounds 1]        writes and removes FOLDER/checkpoints and FOLDER/plain
#include <ATen/ops/from_blob.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/random.h"
#include "core/stopwatch.h"
#include "parallel/collectives/thread_communicator.h"
#include "trainer/checkpoint/checkpointer.h"
#include "trainer/conversion/param_stream.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;
constexpr size_t kPeriod = 64 << 20;  // bytes of the memory that is mapped again and again

/// `bytes` of address space over kPeriod bytes of memory.
class RepeatedMemory {
 public:
  explicit RepeatedMemory(size_t bytes) : bytes_((bytes + kPeriod - 1) / kPeriod * kPeriod) {
    const int file = memfd_create("state", 0);
    ENSURE(file >= 0 && ftruncate(file, kPeriod) == 0, "no memory of {} bytes: {}", kPeriod, std::strerror(errno));
    begin_ = mmap(nullptr, bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ENSURE(begin_ != MAP_FAILED, "no address space of {} bytes: {}", bytes_, std::strerror(errno));
    for (size_t at = 0; at < bytes_; at += kPeriod) {
      auto* const place = static_cast<char*>(begin_) + at;
      ENSURE(mmap(place, kPeriod, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) == place, "mmap: {}",
             std::strerror(errno));
    }
    close(file);
  }
  ~RepeatedMemory() { munmap(begin_, bytes_); }
  RepeatedMemory(const RepeatedMemory&) = delete;
  RepeatedMemory& operator=(const RepeatedMemory&) = delete;
  float* data() const { return static_cast<float*>(begin_); }
  std::span<float> period() const { return {data(), kPeriod / sizeof(float)}; }

 private:
  size_t bytes_;
  void* begin_;
};

/// Largest memory of this process without the state's, sampled every 20 ms.
class MemoryWatch {
 public:
  MemoryWatch()
      : thread_([this](std::stop_token stop) {
          for (; !stop.stop_requested(); std::this_thread::sleep_for(std::chrono::milliseconds(20)))
            most_kib_ = std::max(most_kib_.load(), now_kib());
        }) {}
  double most_mb() const { return static_cast<double>(most_kib_) * 1024 / 1e6; }

 private:
  static int64_t now_kib() {
    std::ifstream status("/proc/self/status");
    int64_t sum = 0;
    for (std::string word; status >> word;)
      if (int64_t kib = 0; (word == "RssAnon:" || word == "RssFile:") && status >> kib) sum += kib;
    return sum;
  }
  std::atomic<int64_t> most_kib_ = 0;
  std::jthread thread_;
};

/// Runs `work` on `bytes` and prints its rate.
double timed(const char* what, int64_t bytes, const std::function<void()>& work) {
  MemoryWatch memory;
  const Stopwatch watch;
  work();
  const double seconds = watch.elapsed_s(), rate = static_cast<double>(bytes) / seconds / 1e9;
  std::printf("%-28s %7.2f s  %6.3f GB/s  %6.0f MB of memory\n", what, seconds, rate, memory.most_mb());
  std::fflush(stdout);
  return rate;
}

void plain_write(const std::string& path, const RepeatedMemory& memory, int64_t bytes) {
  const FileDescriptor file(path, O_WRONLY | O_CREAT | O_TRUNC);
  constexpr int64_t kBlock = 4 << 20;
  for (int64_t at = 0; at < bytes; at += kBlock)
    file.write_all({reinterpret_cast<const std::byte*>(memory.data()) + at % kPeriod,
                    static_cast<size_t>(std::min(kBlock, bytes - at))});
  file.sync();
}

void plain_read(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  std::vector<std::byte> block(4 << 20);
  while (file.read_some(block) > 0) continue;
}

void measure(const std::string& folder, int64_t layers, int rounds) {
  ModelConfig model;
  model.num_layers = layers;
  std::vector<Slice> slices;
  int64_t numel = 0;
  for (const auto& param : whole_params(model)) {
    slices.push_back(
        {.name = param.name, .global_shape = {param.numel}, .begin = 0, .end = param.numel, .offset = numel});
    numel += param.numel;
  }
  const RepeatedMemory memory(static_cast<size_t>(numel) * sizeof(float));
  const RandomStream random(1, "checkpoint speed");
  for (size_t i = 0; i < memory.period().size(); ++i)
    memory.period()[i] = static_cast<float>(random.bits(i) >> 40) / (1 << 24) - 0.5F;
  const std::vector<float> expected(memory.period().begin(), memory.period().end());
  std::vector<StateTensor> state;
  for (const char* kind : {"weight", "exp_avg", "exp_avg_sq"}) {
    state.push_back({.kind = kind, .slices = slices, .flat = at::from_blob(memory.data(), {numel}, at::kFloat)});
    state.back().on_all_ranks = true;
  }
  const int64_t bytes = shard_bytes(state);
  std::printf("%ld layers, %ld parameters, %.2f GB of state\n", layers, numel, static_cast<double>(bytes) / 1e9);

  const auto world = make_single_communicator();
  DeviceMesh mesh(*world, {1, 1, 1});
  Checkpointer checkpointer(folder + "/checkpoints", mesh, {});
  fs::create_directories(folder);
  const auto plain = folder + "/plain";
  for (int round = 0; round < rounds; ++round) {
    const double disk_write = timed("plain write and fsync", bytes, [&] { plain_write(plain, memory, bytes); });
    FileDescriptor(plain, O_RDONLY).forget_cached();
    const double disk_read = timed("plain read", bytes, [&] { plain_read(plain); });
    fs::remove(plain);
    Manifest manifest;
    manifest.step = 1;
    const double save = timed("save", bytes, [&] { checkpointer.save(manifest, state); });
    checkpointer.forget_cached(1);
    std::ranges::fill(memory.period(), 0.0F);
    const double load = timed("load", bytes, [&] { checkpointer.load(checkpointer.read_manifest(1), state); });
    ENSURE(std::ranges::equal(memory.period(), expected), "what was loaded is not what was saved");
    std::printf("save %.0f %% of the plain write, load %.0f %% of the plain read\n", 100 * save / disk_write,
                100 * load / disk_read);
    fs::remove_all(folder + "/checkpoints");
  }
}

}  // namespace

int main(int argc, char* argv[]) {
  std::string folder;
  int64_t layers = 5;
  int rounds = 1;
  CLI::App app{"Rates of saving and loading a checkpoint, beside those of the disk."};
  app.add_option("folder", folder, "on the disk to be measured")->required();
  app.add_option("--layers", layers, "blocks of OLMoE-1B-7B's shape: about 5 GB of state each")
      ->check(CLI::Range(1, 64));
  app.add_option("--rounds", rounds, "times to repeat")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  measure(folder, layers, rounds);
}
