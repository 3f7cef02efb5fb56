// log.routing_every_steps: assignments of each rank's tokens to each expert, and the health of routers counted from
// them.
#include <array>
#include <cmath>
#include <numeric>

#include "support/trainer_fixtures.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Four steps of three micro-batches, of which every second step has counts.
Config counted_run(const std::string& folder) {
  auto config = tiny_run(folder);
  config.train.steps = 4;
  config.model.num_experts = 4;
  config.log.routing_every_steps = 2;
  return config;
}

std::vector<nlohmann::json> counted_lines(int ranks, const Config& config) {
  run_to_the_end(ranks, config);
  return lines_of(config.run.folder);
}

using Counts = std::vector<std::vector<std::vector<double>>>;  // ranks, layers, experts

/// Of all ranks: by layer and expert.
std::vector<std::vector<double>> summed(const Counts& counts) {
  auto sum = counts.at(0);
  for (size_t rank = 1; rank < counts.size(); ++rank)
    for (size_t layer = 0; layer < sum.size(); ++layer)
      for (size_t expert = 0; expert < sum[layer].size(); ++expert) sum[layer][expert] += counts[rank][layer][expert];
  return sum;
}

struct Largest {
  double load = 0, variation = 0;
};

/// Over the layers: of the busiest expert, and of the standard deviation, both by the mean of the layer.
Largest largest(const std::vector<std::vector<double>>& counts_LE) {
  Largest out;
  for (const auto& counts : counts_LE) {
    double sum = 0, squares = 0, most = 0;
    for (const double count : counts) sum += count, squares += count * count, most = std::max(most, count);
    const auto experts = static_cast<double>(counts.size());
    const double mean = sum / experts;
    out.load = std::max(out.load, most / mean);
    out.variation = std::max(out.variation, std::sqrt(squares / experts - mean * mean) / mean);
  }
  return out;
}

}  // namespace

TEST_CASE("assignments by rank are those of its tokens, and give the health of routers") {
  const TempFolder folder;
  auto config = counted_run(folder / "four");
  config.parallel.expert = 2;
  const auto lines = counted_lines(4, config);
  const auto single = counted_lines(1, counted_run(folder / "one"));
  REQUIRE(lines.size() == 4);
  for (size_t i = 0; i < lines.size(); ++i) {
    const bool due = (i + 1) % 2 == 0;
    CHECK(lines[i].contains("expert_counts") == due);
    if (!due) continue;
    const auto counts = lines[i].at("expert_counts").get<Counts>();
    REQUIRE(counts.size() == 4);
    // Sequences of the ranks' micro-batches: 2, 2, 1 and none.
    constexpr std::array kSequences{2, 2, 1, 0};
    for (size_t rank = 0; rank < 4; ++rank) {
      REQUIRE(counts[rank].size() == static_cast<size_t>(config.model.num_layers));
      for (const auto& layer : counts[rank])
        CHECK(std::accumulate(layer.begin(), layer.end(), 0.0) ==
              static_cast<double>(kSequences[rank] * config.data.sequence_length * config.model.top_k));
    }
    const auto all = summed(counts);
    CHECK(all == summed(single[i].at("expert_counts").get<Counts>()));
    const auto health = largest(all);
    CHECK(lines[i].at("max_expert_load").get<double>() == Approx(health.load).epsilon(1e-12));
    CHECK(lines[i].at("expert_load_variation").get<double>() == Approx(health.variation).epsilon(1e-9));
  }
}

TEST_CASE("assignments by rank change no other number, and a dense model has none") {
  const TempFolder folder;
  auto plain = counted_run(folder / "plain"), counted = counted_run(folder / "counted"),
       dense = counted_run(folder / "dense");
  plain.log.routing_every_steps = 0;
  dense.model.ffn = Ffn::dense;
  auto with = counted_lines(2, counted);
  for (auto& line : with) line.erase("expert_counts");
  CHECK(with == counted_lines(2, plain));
  for (const auto& line : counted_lines(1, dense)) CHECK_FALSE(line.contains("expert_counts"));
}
