#include "trainer/config/save_cadence.h"

#include <algorithm>
#include <numeric>

namespace olmoe {
namespace {

/// Multiples of `every` after `first` and up to `last`; none for 0.
int64_t multiples(int64_t every, int64_t first, int64_t last) {
  return every == 0 || last <= first ? 0 : last / every - first / every;
}

}  // namespace

bool save_due(const CheckpointConfig& config, int64_t step) {
  const auto piece = std::ranges::find_if(config.cadence, [&](const auto& one) { return step <= one.until_step; });
  const int64_t every = piece == config.cadence.end() ? config.every_steps : piece->every_steps;
  return every > 0 && step % every == 0;
}

bool saves_async(const CheckpointConfig& config) {
  return config.async && (config.every_steps > 0 || !config.cadence.empty());
}

int64_t count_saves(const CheckpointConfig& config, int64_t first, int64_t last, int64_t multiple) {
  const auto count = [&](int64_t every, int64_t end) {
    return multiples(every == 0 ? 0 : std::lcm(every, multiple), first, std::min(end, last));
  };
  int64_t saves = 0;
  for (const auto& piece : config.cadence) {
    saves += count(piece.every_steps, piece.until_step);
    first = std::max(first, piece.until_step);
  }
  return saves + count(config.every_steps, last);
}

}  // namespace olmoe
