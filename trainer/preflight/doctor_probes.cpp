#include "trainer/preflight/doctor_probes.h"

#include <ATen/DeviceAccelerator.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <sstream>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/process/process_identity.h"
#include "core/stopwatch.h"
#include "parallel/agreement.h"
#include "parallel/device_mesh.h"
#include "trainer/config/mesh_shape.h"
#include "trainer/device/device_facts.h"
#include "trainer/job/environment.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/preflight/disk_notices.h"
#include "trainer/preflight/memory_fit.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
constexpr double kNotMeasured = std::numeric_limits<double>::quiet_NaN();
constexpr int kRepeats = 5;
constexpr int64_t kMiB = 1 << 20;
constexpr int64_t kFileBytes = 64 * kMiB;

/// Sizes that keep a device busy for milliseconds, and shares of the median below which a rank is slow.
struct Scale {
  int64_t gemm;            ///< rows and columns of a square matrix
  int64_t copy_bytes;      ///< beyond any cache
  int64_t transfer_bytes;  ///< of a collective's whole buffer
  double slow_compute, slow_copy, slow_file, slow_collective;
};
// GPUs of one type differ little in computing and copying, and more in what they share. CPU ranks share everything with
// each other and with other programs.
constexpr Scale kCpuScale{768, 64 * kMiB, 8 * kMiB, 0.5, 0.5, 0.3, 0.3};
constexpr Scale kGpuScale{8192, 1024 * kMiB, 256 * kMiB, 0.9, 0.85, 0.5, 0.7};

/// Waits for the device: reads one element.
void finish(const at::Tensor& tensor) { tensor.view(-1)[0].item(); }

/// Least time of several runs of `work`, after a warm-up.
double least_seconds(const std::function<void()>& work) {
  work();
  double least_s = std::numeric_limits<double>::infinity();
  for (int i = 0; i < kRepeats; ++i) {
    const Stopwatch watch;
    work();
    least_s = std::min(least_s, watch.elapsed_s());
  }
  return least_s;
}

/// Makes the measurements one after the other, each started by all ranks together, and keeps the results.
class Examiner {
 public:
  Examiner(Communicator& world, const Config& config, std::optional<double> slow_below, const SystemView& system)
      : world_(world),
        slow_below_(slow_below),
        system_(system),
        options_(at::TensorOptions()
                     .dtype(scalar_type(config.train.compute_dtype))
                     .device(config.train.device == DeviceKind::cpu ? at::kCPU : at::kCUDA)) {}

  void measure_compute();
  void measure_copy();
  void measure_files(const std::string& run_folder);
  void measure_axis(Communicator& axis);
  void check_room(const Config& config);
  void read_facts(const Config& config, MeshShape mesh);

  std::vector<Measure> measures;
  RankReport mine;

 private:
  static at::ScalarType scalar_type(ComputeDtype dtype) {
    return dtype == ComputeDtype::bfloat16 ? at::kBFloat16 : dtype == ComputeDtype::float32 ? at::kFloat : at::kDouble;
  }
  const Scale& scale() const { return options_.device().is_cpu() ? kCpuScale : kGpuScale; }
  int64_t elements(int64_t bytes) const { return bytes / static_cast<int64_t>(options_.dtype().itemsize()); }
  void add(Measure measure, double value) {
    measure.slow_below = slow_below_.value_or(measure.slow_below);
    measures.push_back(std::move(measure));
    mine.values.push_back(value);
  }
  /// The result of `probe`, which makes no collective call; an exception in it is a problem of this rank.
  double attempt(const std::string& what, const std::function<double()>& probe) {
    try {
      return probe();
    } catch (const std::exception& error) {
      const std::string text = error.what();
      mine.problems.push_back(fmt::format("{}: {}", what, text.substr(0, text.find('\n'))));
      return kNotMeasured;
    }
  }

  Communicator& world_;
  std::optional<double> slow_below_;
  const SystemView& system_;
  at::TensorOptions options_;
};

void Examiner::measure_compute() {
  world_.barrier();
  const double rate = attempt("compute", [&] {
    const int64_t n = scale().gemm;
    const auto a = at::randn({n, n}, options_), b = at::randn({n, n}, options_);  // equal values would draw less power
    auto c = at::empty_like(a);
    const double flops = 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n);
    return flops / 1e9 / least_seconds([&] {
             at::mm_out(c, a, b);
             finish(c);
           });
  });
  add({"compute", "GFLOP/s", scale().slow_compute}, rate);
}

void Examiner::measure_copy() {
  world_.barrier();
  const double rate = attempt("memory", [&] {
    const auto from = at::zeros({elements(scale().copy_bytes)}, options_);
    auto to = at::zeros(from.sizes(), options_);
    return 2 * static_cast<double>(from.nbytes()) / 1e9 / least_seconds([&] {  // read and written
             to.copy_(from);
             finish(to);
           });
  });
  add({"copy", "GB/s", scale().slow_copy}, rate);
}

/// A file that the destructor removes.
class ScratchFile {
 public:
  ScratchFile(const fs::path& folder, int rank) : path_(folder / fmt::format(".olmoe-doctor-{}-{}", rank, getpid())) {}
  ~ScratchFile() { ::unlink(path_.c_str()); }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  /// Writes kFileBytes and syncs them. Returns seconds.
  double write() const {
    const std::vector<std::byte> block(kMiB, std::byte{0x5a});
    const Stopwatch watch;
    FileDescriptor file(path_.string(), O_WRONLY | O_CREAT | O_TRUNC);
    for (int64_t done = 0; done < kFileBytes; done += kMiB) file.write_all(block);
    file.sync();
    const double written_s = watch.elapsed_s();
    posix_fadvise(file.fd(), 0, 0,
                  POSIX_FADV_DONTNEED);  // so that read() reads from the disk, where the system permits it
    file.close();
    return written_s;
  }
  double read() const {
    std::vector<std::byte> block(kMiB);
    const Stopwatch watch;
    const FileDescriptor file(path_.string(), O_RDONLY);
    int64_t bytes = 0;
    while (const auto size = file.read_some(block)) bytes += static_cast<int64_t>(size);
    ENSURE(bytes == kFileBytes, "{}: {} of {} bytes were read back", path_.string(), bytes, kFileBytes);
    return watch.elapsed_s();
  }

 private:
  fs::path path_;
};

void Examiner::measure_files(const std::string& run_folder) {
  constexpr double kFileMb = static_cast<double>(kFileBytes) / 1e6;
  const ScratchFile file(existing_folder(run_folder), world_.rank());
  world_.barrier();
  const double written = attempt("run.folder", [&] { return kFileMb / file.write(); });
  add({"write", "MB/s", scale().slow_file}, written);
  world_.barrier();
  add({"read", "MB/s", scale().slow_file},
      std::isnan(written) ? kNotMeasured : attempt("run.folder", [&] { return kFileMb / file.read(); }));
}

/// Rates are bytes that a rank receives from the others, by time.
void Examiner::measure_axis(Communicator& axis) {
  const int64_t ranks = axis.size(), part = elements(scale().transfer_bytes) / ranks;
  const auto mine_n = at::ones({part}, options_), whole = at::ones({ranks * part}, options_);
  auto small = at::empty_like(mine_n), large = at::empty_like(whole);
  const double received_gb = static_cast<double>((ranks - 1) * static_cast<int64_t>(mine_n.nbytes())) / 1e9;
  const std::vector<int64_t> rows(static_cast<size_t>(ranks), part);
  auto measure = [&](const char* collective, const at::Tensor& out, const std::function<void()>& call) {
    world_.barrier();
    const double taken_s = least_seconds([&] {
      call();
      finish(out);
    });
    add({fmt::format("{} {}", axis.name(), collective), "GB/s", scale().slow_collective}, received_gb / taken_s);
  };
  measure("all-gather", large, [&] { axis.all_gather(large, mine_n); });
  measure("reduce-scatter", small, [&] { axis.reduce_scatter(small, whole); });
  measure("all-to-all", large, [&] { axis.all_to_all(large, whole, rows, rows); });
}

void Examiner::check_room(const Config& config) {
  if (world_.rank() != 0) return;
  if (auto refused = describe_disk(config).refused; !refused.empty()) mine.problems.push_back(std::move(refused));
}

/// Call after the other probes, so that the clock is that of a busy device.
void Examiner::read_facts(const Config& config, MeshShape mesh) {
  mine.host = host_name();
  attempt("device", [&] {
    if (!options_.device().is_cpu()) at::accelerator::emptyCache();  // frees the probes' memory
    const auto facts = read_device_facts(options_.device(), system_);
    mine.device = describe(facts);
    const auto plan = plan_memory(config, mesh, multiprocessors_of(options_.device()));
    const auto fit = fit_memory(plan.total(), ranks_on_node(), facts.memory);
    if (fit.verdict >= MemoryFit::Verdict::beyond_free) mine.problems.push_back("memory: " + describe(fit));
    return 0.0;
  });
}

/// Collective over world.
std::vector<RankReport> gather_reports(Communicator& world, const RankReport& mine) {
  const auto values = gather_records<double>(world, mine.values);
  std::string problems;  // a line each
  for (const auto& problem : mine.problems) problems += problem + "\n";
  const auto hosts = gather_text(world, mine.host), devices = gather_text(world, mine.device);
  const auto texts = gather_text(world, problems);
  std::vector<RankReport> out;
  for (size_t rank = 0; rank < hosts.size(); ++rank) {
    const auto theirs = std::span(values).subspan(rank * mine.values.size(), mine.values.size());
    out.push_back({hosts[rank], devices[rank], {theirs.begin(), theirs.end()}, {}});
    std::istringstream lines(texts[rank]);
    for (std::string line; std::getline(lines, line);) out.back().problems.push_back(line);
  }
  return out;
}

}  // namespace

Examination examine(const ResolvedRun& run, Communicator& world, std::optional<double> slow_below,
                    const SystemView& system) {
  const auto& [config, shape] = std::tie(run.config, run.mesh);
  DeviceMesh mesh(world, shape);
  Examiner examiner(world, config, slow_below, system);
  examiner.measure_compute();
  examiner.measure_copy();
  examiner.measure_files(config.run.folder);
  for (auto* axis : {&mesh.replicate(), &mesh.shard(), &mesh.expert(), &mesh.expert_shard()}) {
    const bool same_as_shard = axis == &mesh.expert_shard() && shape.expert == 1;
    if (axis->size() > 1 && !same_as_shard) examiner.measure_axis(*axis);
  }
  examiner.check_room(config);
  examiner.read_facts(config, shape);
  return {examiner.measures, gather_reports(world, examiner.mine)};
}

}  // namespace olmoe
