#include "data/data_loader.h"

#include <ATen/ops/equal.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "data/token_files.h"
#include "support/catch.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::TokenFolder;

namespace {

/// Sequence p is S times p; reading at or after `fail_at` throws. Counts its reads.
class CountingSource final : public SequenceSource {
 public:
  explicit CountingSource(int64_t fail_at = 1 << 30) : fail_at_(fail_at) {}
  int64_t sequence_length() const override { return 3; }
  int64_t num_sequences() const override { return 1 << 30; }
  void read(int64_t position, std::span<int64_t> out) const override {
    if (position >= fail_at_) throw DataError(fmt::format("position {} is broken", position));
    std::fill(out.begin(), out.end(), position);
    ++reads_;
  }
  std::string fingerprint() const override { return "counting"; }
  int64_t reads() const { return reads_; }

 private:
  int64_t fail_at_;
  mutable std::atomic<int64_t> reads_ = 0;
};

std::vector<int64_t> values(const at::Tensor& t) {
  return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()};
}

bool same_batch(const Batch& a, const Batch& b) {
  return at::equal(a.ids_BS, b.ids_BS) && at::equal(a.targets_BS, b.targets_BS) && a.num_targets == b.num_targets;
}

/// Batches of `steps` steps on one rank.
std::vector<Batch> take(std::shared_ptr<const SequenceSource> source, DataLoader::Plan plan, int64_t first_step,
                        int64_t steps) {
  DataLoader loader(std::move(source), plan, first_step);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < steps * plan.batches.accumulation_steps(); ++i) batches.push_back(loader.next());
  return batches;
}

}  // namespace

TEST_CASE("targets are the ids shifted left inside each sequence") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(9, 10));
  const auto dataset = std::make_shared<TokenDataset>(std::vector{path}, TokenDtype::uint16, 4, 100);
  const auto source = make_file_source(dataset, 0, false);
  const Batch batch = make_batch(*source, 0, 2);
  CHECK(batch.ids_BS.sizes() == at::IntArrayRef{2, 4});
  CHECK(batch.ids_BS.scalar_type() == at::kLong);
  CHECK(values(batch.ids_BS) == std::vector<int64_t>{10, 11, 12, 13, 14, 15, 16, 17});
  CHECK(values(batch.targets_BS) == std::vector<int64_t>{11, 12, 13, -100, 15, 16, 17, -100});
  CHECK(batch.num_targets == 6);
}

TEST_CASE("an empty micro-batch has tensors of no rows") {
  const Batch batch = make_batch(CountingSource(), 5, 0);
  CHECK(batch.ids_BS.sizes() == at::IntArrayRef{0, 3});
  CHECK(batch.targets_BS.sizes() == at::IntArrayRef{0, 3});
  CHECK(batch.num_targets == 0);
}

TEST_CASE("files in order repeat after an epoch; shuffled epochs have the same sequences") {
  TokenFolder folder;
  const auto path = folder.write("a.npy", counting(200));
  const auto dataset = std::make_shared<TokenDataset>(std::vector{path}, TokenDtype::uint16, 4, 200);
  const auto in_order = make_file_source(dataset, 1, false);
  const auto shuffled = make_file_source(dataset, 1, true);
  const auto reseeded = make_file_source(dataset, 2, true);
  const auto firsts = [](const SequenceSource& source, int64_t position) {
    return values(make_batch(source, position, 50).ids_BS.select(1, 0).contiguous());
  };
  const auto ordered = firsts(*in_order, 0);
  CHECK(firsts(*in_order, 50) == ordered);
  auto epoch_0 = firsts(*shuffled, 0), epoch_1 = firsts(*shuffled, 50);
  CHECK(epoch_0 != epoch_1);
  CHECK(epoch_0 != firsts(*reseeded, 0));
  CHECK(epoch_0 != ordered);
  std::sort(epoch_0.begin(), epoch_0.end());
  std::sort(epoch_1.begin(), epoch_1.end());
  CHECK(epoch_0 == ordered);
  CHECK(epoch_1 == ordered);
  CHECK(in_order->fingerprint() != shuffled->fingerprint());
  CHECK(make_file_source(dataset, 1, true, "all")->fingerprint() == shuffled->fingerprint() + "+full:all");
  CHECK(shuffled->fingerprint() != reseeded->fingerprint());
}

TEST_CASE("synthetic tokens follow a seeded rule, one in eight is random") {
  const auto source = make_synthetic_source(4000, 97, 3);
  std::vector<int64_t> ids(4000), again(4000);
  source->read(12, ids);
  make_synthetic_source(4000, 97, 3)->read(12, again);
  CHECK(ids == again);
  source->read(13, again);
  CHECK(ids != again);
  make_synthetic_source(4000, 97, 4)->read(12, again);
  CHECK(ids != again);
  CHECK(*std::min_element(ids.begin(), ids.end()) == 0);
  CHECK(*std::max_element(ids.begin(), ids.end()) == 96);

  // The commonest successor of an id is its rule; a random one hits it by chance in 1 of 97 cases.
  std::vector<std::vector<int64_t>> follows(97, std::vector<int64_t>(97, 0));
  for (size_t i = 0; i + 1 < ids.size(); ++i) ++follows[static_cast<size_t>(ids[i])][static_cast<size_t>(ids[i + 1])];
  int64_t ruled = 0;
  for (const auto& counts : follows) ruled += *std::max_element(counts.begin(), counts.end());
  CHECK(static_cast<double>(ruled) / 3999 == Approx(7.0 / 8 + 1.0 / 8 / 97).margin(0.02));

  CHECK(source->fingerprint() == make_synthetic_source(4000, 97, 3)->fingerprint());
  CHECK(source->fingerprint() != make_synthetic_source(4000, 97, 4)->fingerprint());
  CHECK(source->fingerprint() != make_synthetic_source(4000, 98, 3)->fingerprint());
}

TEST_CASE("every world size sees the same micro-batches") {
  const auto source = std::make_shared<CountingSource>();
  constexpr int64_t kGlobalBatch = 11, kMicroBatch = 2, kSteps = 3, kMicroBatches = 6;
  const auto alone = take(source, {{kGlobalBatch, kMicroBatch, 1}, 0, 2}, 0, kSteps);
  REQUIRE(std::ssize(alone) == kSteps * kMicroBatches);
  CHECK(values(alone[7].ids_BS) == std::vector<int64_t>{13, 13, 13, 14, 14, 14});
  CHECK(values(alone[5].ids_BS) == std::vector<int64_t>{10, 10, 10});  // the last is smaller
  CHECK(alone[5].num_targets == 2);

  for (int world_size = 1; world_size <= 5; ++world_size) {
    for (int rank = 0; rank < world_size; ++rank) {
      const DataLoader::Plan plan{{kGlobalBatch, kMicroBatch, world_size}, rank, 2};
      const int64_t accumulation_steps = plan.batches.accumulation_steps();
      REQUIRE(accumulation_steps == (kMicroBatches + world_size - 1) / world_size);
      const auto batches = take(source, plan, 0, kSteps);
      for (int64_t i = 0; i < std::ssize(batches); ++i) {
        const int64_t step = i / accumulation_steps, index = i % accumulation_steps * world_size + rank;
        INFO("world size " << world_size << ", rank " << rank << ", step " << step << ", micro-batch " << index);
        const Batch& batch = batches[static_cast<size_t>(i)];
        if (index < kMicroBatches)
          CHECK(same_batch(batch, alone[static_cast<size_t>(step * kMicroBatches + index)]));
        else
          CHECK((batch.ids_BS.size(0) == 0 && batch.num_targets == 0));
      }
    }
  }
}

TEST_CASE("a loader resumes at any step") {
  const auto source = std::make_shared<CountingSource>();
  const DataLoader::Plan plan{{7, 2, 3}, 1, 2};
  const auto whole = take(source, plan, 0, 6);
  for (int64_t step = 0; step < 6; ++step) {
    const auto resumed = take(source, plan, step, 6 - step);
    REQUIRE(std::ssize(resumed) == (6 - step) * plan.batches.accumulation_steps());
    for (size_t i = 0; i < resumed.size(); ++i)
      CHECK(same_batch(resumed[i], whole[static_cast<size_t>(step * plan.batches.accumulation_steps()) + i]));
  }
}

TEST_CASE("next() rethrows an error of the thread, after the batches before it, and again on each call") {
  DataLoader loader(std::make_shared<CountingSource>(5), {{2, 2, 1}, 0, 4}, 0);
  CHECK(values(loader.next().ids_BS) == std::vector<int64_t>{0, 0, 0, 1, 1, 1});
  CHECK(values(loader.next().ids_BS) == std::vector<int64_t>{2, 2, 2, 3, 3, 3});
  for (int i = 0; i < 2; ++i) CHECK(test::message_of<DataError>([&] { loader.next(); }) == "position 5 is broken");
}

TEST_CASE("the thread prepares `prefetch` micro-batches, and one that waits for space") {
  const auto source = std::make_shared<CountingSource>();
  DataLoader loader(source, {{1, 1, 1}, 0, 3}, 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (source->reads() < 4 && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  CHECK(source->reads() == 4);
}

TEST_CASE("a loader can be destroyed while its thread waits for space, and before it began") {
  const auto source = std::make_shared<CountingSource>();
  for (int i = 0; i < 200; ++i) {
    DataLoader loader(source, {{4, 1, 1}, 0, 1}, 0);
    if (i % 2 == 0) loader.next();
  }
  CHECK(source.use_count() == 1);  // every thread is gone
}

TEST_CASE("plans out of range are refused") {
  const auto source = std::make_shared<CountingSource>();
  CHECK_THROWS_AS(DataLoader(source, {0, 1, 0, 1, 1}, 0), Error);
  CHECK_THROWS_AS(DataLoader(source, {1, 0, 0, 1, 1}, 0), Error);
  CHECK_THROWS_AS(DataLoader(source, {1, 1, 1, 1, 1}, 0), Error);
  CHECK_THROWS_AS(DataLoader(source, {1, 1, 0, 1, 0}, 0), Error);
  CHECK_THROWS_AS(DataLoader(source, {1, 1, 0, 1, 1}, -1), Error);
}

TEST_CASE("smaller batches of the first steps: sizes, positions and steps, counted by hand") {
  const BatchSizes sizes(5, {{2, 1}, {4, 3}});
  const std::vector<int64_t> expected{1, 1, 3, 3, 5, 5, 5};
  int64_t position = 0;
  for (int64_t step = 1; step <= 7; ++step) {
    const int64_t size = expected[static_cast<size_t>(step - 1)];
    CHECK(sizes.of_step(step) == size);
    CHECK(sizes.until(step - 1) == position);
    for (int64_t i = 0; i < size; ++i) CHECK(sizes.step_of(position++) == step);
  }
  CHECK(sizes.until(7) == 23);
  const BatchSizes constant = 5;
  CHECK(constant.of_step(1) == 5);
  CHECK(constant.until(3) == 15);
  CHECK(constant.step_of(15) == 4);
}

TEST_CASE("the loader takes each position once through a batch-size warm-up, on any ranks and from any step") {
  const std::vector<BatchPhase> warmup{{2, 1}, {4, 3}};
  const BatchSizes sizes(5, warmup);
  const int ranks = GENERATE(1, 2, 4);
  const int64_t first_step = GENERATE(0, 1, 2, 3, 4, 5);
  std::vector<int64_t> positions;
  for (int rank = 0; rank < ranks; ++rank) {
    DataLoader loader(std::make_shared<CountingSource>(), {{5, 2, ranks}, rank, 2, warmup}, first_step);
    for (int64_t step = first_step + 1; step <= 6; ++step) {
      const BatchPlan plan{sizes.of_step(step), 2, ranks};
      for (int64_t i = 0; i < plan.accumulation_steps(); ++i) {
        const auto ids = values(loader.next().ids_BS);
        for (size_t k = 0; k < ids.size(); k += 3) {
          positions.push_back(ids[k]);
          CHECK(sizes.step_of(ids[k]) == step);
        }
      }
    }
  }
  std::ranges::sort(positions);
  REQUIRE(std::ssize(positions) == sizes.until(6) - sizes.until(first_step));
  for (size_t i = 0; i < positions.size(); ++i)
    CHECK(positions[i] == sizes.until(first_step) + static_cast<int64_t>(i));
}
