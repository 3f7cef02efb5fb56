// Routing records: what is written comes back by the ids of sequences, and files that do not fit are refused.
#include "trainer/analysis/routing_record.h"

#include <cstring>
#include <filesystem>

#include "core/files/files.h"
#include "support/catch.h"
#include "support/routed_tokens.h"
#include "support/temp_folder.h"
#include "trainer/analysis/array_file.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

RoutingRecord::Expected expected_of(const AnalysisShape& shape) {
  return {shape.layers, shape.experts, shape.top_k, shape.sequence_length};
}

at::Tensor gates_of(const RoutedTokens& tokens) {
  return tokens.experts_LNK.to(at::kDouble) * 0.01 + at::arange(tokens.num_tokens(), at::kDouble).unsqueeze(1);
}

/// A record of all batches.
std::string write_record(const TempFolder& folder, const AnalysisShape& shape,
                         const std::vector<RoutedTokens>& batches) {
  const auto path = folder / "record.safetensors";
  RecordWriter writer(path, shape.sequence_length);
  for (const auto& tokens : batches) writer.append(tokens.ids_BS, tokens.experts_LNK, gates_of(tokens));
  writer.finish({{"model", "a"}});
  return path;
}

}  // namespace

TEST_CASE("a record gives experts and gates of sequences in any order, and leaves no pieces") {
  const TempFolder folder;
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  const auto path = write_record(folder, shape, batches);
  CHECK(std::distance(std::filesystem::directory_iterator(folder / ""), {}) == 1);
  const safetensors::File file(path);
  CHECK(file.entry("experts").shape == std::vector<int64_t>{80, 3, 3});
  CHECK(file.entry("gates").dtype == safetensors::Dtype::f32);
  CHECK(file.metadata().at("model") == "a");
  const RoutingRecord record(path, expected_of(shape));
  CHECK(record.num_sequences() == 10);
  for (const size_t i : {3, 0, 2, 1}) {
    const auto& tokens = batches[i];
    CHECK(record.experts_of(tokens.ids_BS).equal(tokens.experts_LNK));
    CHECK(record.gates_of(tokens.ids_BS).equal(gates_of(tokens).to(at::kFloat)));
  }
  const auto& three = batches[0];
  const auto backwards = at::tensor({2, 0}, at::kLong);
  const auto experts = three.experts_LNK.unflatten(1, {3, shape.sequence_length}).index_select(1, backwards);
  CHECK(record.experts_of(three.ids_BS.index_select(0, backwards)).equal(experts.flatten(1, 2)));
  CHECK(record.experts_of(three.ids_BS.narrow(0, 0, 0)).sizes() == at::IntArrayRef({3, 0, 3}));
}

TEST_CASE("a sequence that a record does not have is refused with its first ids") {
  const TempFolder folder;
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  const RoutingRecord record(write_record(folder, shape, batches), expected_of(shape));
  auto other = batches[1].ids_BS.clone();
  other[1][7] = (other[1][7] + 1).remainder(11);
  CHECK_THROWS_WITH(record.experts_of(other), Catch::Contains("record.safetensors") && Catch::Contains("no sequence"));
}

TEST_CASE("records of another model or length, and files that are none, are refused by name") {
  const TempFolder folder;
  const auto shape = small_analysis();
  const auto path = write_record(folder, shape, random_batches(shape));
  const auto refusal = [&](const std::string& file, auto change) {
    auto expected = expected_of(shape);
    change(expected);
    try {
      const RoutingRecord record(file, expected);
    } catch (const DataError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  const auto none = [](auto&) {};
  CHECK(refusal(path, none) == "none");
  CHECK_THAT(refusal(path, [](auto& e) { e.sequence_length = 4; }), Catch::Contains("sequences are of 8 tokens"));
  CHECK_THAT(refusal(path, [](auto& e) { e.layers = 2; }), Catch::Contains("2 layers with experts and top-3"));
  CHECK_THAT(refusal(path, [](auto& e) { e.top_k = 2; }), Catch::Contains("3 layers with experts and top-2"));
  CHECK_THAT(refusal(path, [](auto& e) { e.experts = 5; }), Catch::Contains("the model 5"));
  const auto text = folder.add("text.safetensors", "no record at all");
  CHECK_THAT(refusal(text, none), Catch::Contains("text.safetensors"));
  const auto counts = folder / "counts.safetensors";
  write_arrays(counts, std::vector<NamedArray>{{"load.counts", at::ones({2}, at::kLong)}}, {});
  CHECK_THAT(refusal(counts, none), Catch::Contains("no array experts"));
}

TEST_CASE("a record that is not finished leaves nothing, and one that is there is not overwritten") {
  const TempFolder folder;
  const auto shape = small_analysis();
  const auto batches = random_batches(shape);
  const auto path = folder / "record.safetensors";
  {
    RecordWriter writer(path, shape.sequence_length);
    writer.append(batches[0].ids_BS, batches[0].experts_LNK, gates_of(batches[0]));
  }
  CHECK(std::filesystem::is_empty(folder / ""));
  write_record(folder, shape, batches);
  CHECK_THROWS_WITH(RecordWriter(path, 8), Catch::Contains("exists"));
  CHECK_THROWS_WITH(RecordWriter(folder / "none/record.safetensors", 8), Catch::Contains("cannot be written"));
}

TEST_CASE("arrays come back from their file with names, dtypes and shapes") {
  const TempFolder folder;
  const auto path = folder / "arrays.safetensors";
  const auto counts = at::arange(6, at::kLong).view({2, 3}), shares = at::arange(4, at::kDouble) / 3;
  write_arrays(path, std::vector<NamedArray>{{"a.counts", counts.t()}, {"a.shares", shares}}, {{"experts", "3"}});
  const safetensors::File file(path);
  CHECK(file.entry("a.counts").shape == std::vector<int64_t>{3, 2});
  CHECK(file.entry("a.counts").dtype == safetensors::Dtype::i64);
  const std::vector<int64_t> expected{0, 3, 1, 4, 2, 5};
  CHECK(std::memcmp(file.bytes("a.counts").data(), expected.data(), 48) == 0);
  CHECK(file.entry("a.shares").dtype == safetensors::Dtype::f64);
  CHECK(file.metadata().at("experts") == "3");
  CHECK_FALSE(std::filesystem::exists(path + ".tmp"));
  CHECK_THROWS_WITH(write_arrays(folder / "two", std::vector<NamedArray>{{"a", shares}, {"a", shares}}, {}),
                    Catch::Contains("two tensors are named 'a'"));
}
