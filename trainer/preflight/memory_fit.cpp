#include "trainer/preflight/memory_fit.h"

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "trainer/device/device_facts.h"
#include "trainer/device/gpu_specs.h"
#include "trainer/job/devices.h"
#include "trainer/planner/memory_plan.h"

namespace olmoe {
namespace {

MemoryFit compare(int64_t rank_bytes, int ranks, const MemoryBound& bound) {
  MemoryFit fit{MemoryFit::Verdict::fits, rank_bytes, bound.shared ? ranks : 1, bound};
  const double planned = fit.planned_bytes(), free = static_cast<double>(bound.free_bytes);
  if (planned > static_cast<double>(bound.total_bytes))
    fit.verdict = MemoryFit::Verdict::beyond_total;
  else if (planned > free)
    fit.verdict = MemoryFit::Verdict::beyond_free;
  else if (planned > kUsableMemory * free)
    fit.verdict = MemoryFit::Verdict::close;
  return fit;
}

/// Free bytes of a bound after the plan; negative: missing bytes, of the total where the plan exceeds it.
double left_over(const MemoryFit& fit) {
  const bool never = fit.verdict == MemoryFit::Verdict::beyond_total;
  return static_cast<double>(never ? fit.bound.total_bytes : fit.bound.free_bytes) - fit.planned_bytes();
}

MemoryBound bound_of(const GpuSpecs& gpu, std::string name) {
  const auto bytes = static_cast<int64_t>(gpu.memory_bytes);
  return {std::move(name), bytes, bytes, /*shared=*/false};
}

}  // namespace

MemoryFit fit_memory(int64_t rank_bytes, int ranks, const std::vector<MemoryBound>& bounds) {
  ENSURE(!bounds.empty(), "no bound of memory");
  auto worst = compare(rank_bytes, ranks, bounds.front());
  for (const auto& bound : bounds) {
    const auto fit = compare(rank_bytes, ranks, bound);
    if (fit.verdict > worst.verdict || (fit.verdict == worst.verdict && left_over(fit) < left_over(worst))) worst = fit;
  }
  return worst;
}

std::string describe(const MemoryFit& fit) {
  const auto size = [](double bytes) {  // as many as an int64_t counts
    return describe_size(static_cast<int64_t>(std::min(bytes, 9e18)));
  };
  const auto plan = fit.ranks > 1 ? fmt::format("{} ranks of {} here are {}", fit.ranks, describe_size(fit.rank_bytes),
                                                size(fit.planned_bytes()))
                                  : fmt::format("the plan of a rank is {}", describe_size(fit.rank_bytes));
  const auto free = fmt::format("{} of {} free ({})", describe_size(fit.bound.free_bytes),
                                describe_size(fit.bound.total_bytes), fit.bound.source);
  switch (fit.verdict) {
    case MemoryFit::Verdict::fits:
      return fmt::format("{}; {}", plan, free);
    case MemoryFit::Verdict::close:
      return fmt::format("{}; {}: close, since libraries and buffers come on top", plan, free);
    case MemoryFit::Verdict::beyond_free:
      return fmt::format("{}, but only {}: a run may be killed for lack of memory", plan, free);
    case MemoryFit::Verdict::beyond_total:
      break;
  }
  return fmt::format("{}, more than the {} of {}: this cannot fit. docs/memory.md says what to change first", plan,
                     describe_size(fit.bound.total_bytes), fit.bound.source);
}

std::vector<MemoryBound> planned_bounds(const Config& config, const std::string& gpu, const SystemView& system) {
  if (!gpu.empty()) return {bound_of(find_gpu(gpu), gpu)};
  if (config.train.device == DeviceKind::cpu || cuda::device_count() > 0)
    return read_device_facts(device_of_rank(config.train.device), system).memory;
  const auto gpus = known_gpus();
  const auto& largest =
      *std::max_element(gpus.begin(), gpus.end(), [](auto& a, auto& b) { return a.memory_bytes < b.memory_bytes; });
  return {bound_of(largest, fmt::format("{}, the largest GPU known here; name yours with --gpu", largest.name))};
}

}  // namespace olmoe
