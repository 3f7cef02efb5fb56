#include "data/documents.h"

#include <ATen/ops/equal.h>

#include <map>

#include "data/config.h"
#include "data/sequence_skip.h"
#include "data/token_files.h"
#include "support/catch.h"
#include "support/gzip.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::message_of;
using test::TokenFolder;
using test::write_gzip;

namespace {

std::vector<int32_t> bounds_of(const Batch& batch) {
  REQUIRE(batch.bounds.defined());
  CHECK(batch.bounds.scalar_type() == at::kInt);
  CHECK(at::equal(batch.bounds, batch.bounds_cpu));
  const auto* const data = batch.bounds.const_data_ptr<int32_t>();
  return {data, data + batch.bounds.numel()};
}

std::shared_ptr<const TokenDataset> dataset_of(const std::vector<std::string>& paths, int64_t sequence_length) {
  return std::make_shared<TokenDataset>(paths, TokenDtype::uint16, sequence_length, 0);
}

/// Documents whose ends are `given` for every sequence but the second, which has `second`.
class GivenDocuments final : public SequenceSource {
 public:
  GivenDocuments(std::vector<int32_t> given, std::vector<int32_t> second)
      : given_(std::move(given)), second_(std::move(second)) {}
  int64_t sequence_length() const override { return 4; }
  int64_t num_sequences() const override { return 3; }
  void read(int64_t, std::span<int64_t> out) const override { std::ranges::fill(out, 1); }
  std::vector<int32_t> document_ends(int64_t position, std::span<const int64_t>) const override {
    return position == 1 ? second_ : given_;
  }
  std::string fingerprint() const override { return "given"; }

 private:
  std::vector<int32_t> given_, second_;
};

}  // namespace

TEST_CASE("a micro-batch has no documents unless its source has") {
  const auto source = make_synthetic_source(8, 5, 1);
  CHECK_FALSE(make_batch(*source, 0, 2).bounds.defined());
  CHECK_FALSE(make_batch(*make_eos_documents(make_synthetic_source(8, 5, 1), 3), 0, 0).bounds.defined());
}

TEST_CASE("the token that ends a document is in it, and every sequence ends one") {
  TokenFolder folder;
  const std::vector<uint16_t> ids{5, 0, 6, 7, 8,  // one that ends inside
                                  5, 5, 5, 5, 5,  // none
                                  0, 0, 7, 8, 0,  // at both ends, and a document of one token
                                  1, 1, 0, 1, 1};
  const auto dataset = dataset_of({folder.write("a.npy", ids)}, 5);
  const auto source = make_eos_documents(make_file_source(dataset, 0, /*shuffle=*/false), /*eos_id=*/0);
  CHECK(bounds_of(make_batch(*source, 0, 4)) == std::vector<int32_t>{0, 2, 5, 10, 11, 12, 15, 18, 20});
  CHECK(bounds_of(make_batch(*source, 1, 1)) == std::vector<int32_t>{0, 5});
  const auto plain = make_file_source(dataset, 0, false);
  CHECK(at::equal(make_batch(*source, 0, 4).targets_BS, make_batch(*plain, 0, 4).targets_BS));  // no target is left out
  CHECK(source->fingerprint() == plain->fingerprint());
}

TEST_CASE("documents from tables, in shuffled order, and behind skipped sequences") {
  TokenFolder folder;
  const std::vector<std::string> paths{folder.write("a.npy", counting(11)), folder.write("b.npy", counting(8, 100))};
  write_gzip(folder.path("a.csv.gz"), "0,3,x,f,1\n3,3,x,f,1\n3,8,x,f,2\n8,11,x,f,3\n");
  write_gzip(folder.path("b.csv.gz"), "0,4,x,f,1\n4,5,x,f,2\n5,8,x,f,3\n");
  const auto dataset = dataset_of(paths, 4);
  const auto tables = std::make_shared<const DocumentTables>(*dataset);
  const auto in_order = make_file_source(dataset, 0, false, {}, tables);
  // Documents of a.npy end at 3, 8 and 11: its sequences are 0-3 and 4-7.
  CHECK(bounds_of(make_batch(*in_order, 0, 4)) == std::vector<int32_t>{0, 3, 4, 8, 12, 13, 16});
  CHECK(in_order->fingerprint() != make_file_source(dataset, 0, false)->fingerprint());

  const std::map<int64_t, std::vector<int32_t>> by_first_id{
      {0, {0, 3, 4}}, {4, {0, 4}}, {100, {0, 4}}, {104, {0, 1, 4}}};
  const std::shared_ptr<const SequenceSource> shuffled = make_file_source(dataset, 7, true, {}, tables);
  const auto skipped =
      make_skipping_source(shuffled, SequenceSkip(std::vector<SkipRange>{{SkipUnit::sequences, 1, 2}}, 1));
  for (const auto& source : {shuffled, skipped})
    for (int64_t position = 0; position < 8; ++position) {
      const auto batch = make_batch(*source, position, 1);
      CHECK(bounds_of(batch) == by_first_id.at(batch.ids_BS[0][0].item<int64_t>()));
    }
}

TEST_CASE("tables say how many documents they have, and what these take in memory") {
  TokenFolder folder;
  const auto dataset = dataset_of({folder.write("a.npy", counting(8)), folder.write("b.npy", counting(8))}, 4);
  write_gzip(folder.path("a.csv.gz"), "0,3,x,f,1\n3,3,x,f,2\n3,8,x,f,3\n");  // one of no tokens
  write_gzip(folder.path("b.csv.gz"), "0,8,x,f,1\n");
  const DocumentTables tables(*dataset);
  CHECK(tables.num_documents() == 3);
  CHECK(tables.size_bytes() == 24);
  CHECK(describe(tables) == "document tables: 3 documents, whose ends take 0.0 MiB of host memory on each rank");
}

TEST_CASE("a changed document table is another fingerprint") {
  TokenFolder folder;
  const auto dataset = dataset_of({folder.write("a.npy", counting(8))}, 4);
  const auto fingerprint = [&](const std::string& rows) {
    write_gzip(folder.path("a.csv.gz"), rows);
    return make_file_source(dataset, 0, false, {}, std::make_shared<DocumentTables>(*dataset))->fingerprint();
  };
  const auto first = fingerprint("0,3,x,f,1\n3,8,x,f,2\n");
  CHECK(first == fingerprint("0,3,other,f,1\n3,8,x,f,2\n"));
  CHECK(first != fingerprint("0,4,x,f,1\n4,8,x,f,2\n"));
}

TEST_CASE("tables that do not fit their token files are named, all at once") {
  TokenFolder folder;
  const std::vector<std::string> paths{folder.write("a.npy", counting(8)), folder.write("b.npy", counting(8)),
                                       folder.write("c.npy", counting(8))};
  write_gzip(folder.path("b.csv.gz"), "0,3,x,f,1\n3,9,x,f,2\n");
  write_gzip(folder.path("c.csv.gz"), "0,5,x,f,1\n5,3,x,f,2\n3,8,x,f,2\n");
  const auto message = message_of<DataError>([&] { DocumentTables(*dataset_of(paths, 4)); });
  CHECK_THAT(message, Catch::Contains("3 of 3 token files cannot be used"));
  CHECK_THAT(message, Catch::Contains("a.npy: has no document table " + folder.path("a.csv.gz") +
                                      ", which data.document_mask: table reads"));
  CHECK_THAT(message, Catch::Contains("b.csv.gz: counts 9 tokens of the 8 in the file"));
  CHECK_THAT(message, Catch::Contains("c.csv.gz: documents are not in order"));
}

TEST_CASE("documents that do not divide their sequence are refused") {
  CHECK(bounds_of(make_batch(GivenDocuments({2, 4}, {4}), 0, 2)) == std::vector<int32_t>{0, 2, 4, 8});
  for (const std::vector<int32_t>& second :
       std::vector<std::vector<int32_t>>{{}, {3}, {5}, {2, 2, 4}, {3, 2, 4}, {0, 4}})
    CHECK_THROWS_WITH(make_batch(GivenDocuments({2, 4}, second), 0, 2), Catch::Contains("sequence 1 of a micro-batch"));
  CHECK_THROWS_WITH(make_batch(GivenDocuments({}, {4}), 0, 2), Catch::Contains("documents in some alone"));
}

TEST_CASE("keys of documents that do not fit each other are refused by name") {
  struct Case {
    DocumentMask mask;
    std::optional<int64_t> eos_id;
    bool synthetic;
    std::string problem;  ///< empty: accepted
  };
  const auto c = GENERATE(values<Case>({{DocumentMask::none, {}, true, ""},
                                        {DocumentMask::eos, 0, true, ""},
                                        {DocumentMask::eos, 49, false, ""},
                                        {DocumentMask::table, {}, false, ""},
                                        {DocumentMask::eos, {}, true, "data.eos_id: document_mask: eos needs"},
                                        {DocumentMask::eos, 50, true, "data.eos_id: 50 is not an id below"},
                                        {DocumentMask::eos, -1, true, "data.eos_id: -1 is not an id below"},
                                        {DocumentMask::none, 3, true, "data.eos_id: it has no effect"},
                                        {DocumentMask::table, 3, false, "data.eos_id: it has no effect"},
                                        {DocumentMask::table, {}, true, "data.document_mask: table needs token"}}));
  DataConfig config;
  config.document_mask = c.mask;
  config.eos_id = c.eos_id;
  config.synthetic = c.synthetic;
  const auto problems = validate_documents(config, 50);
  CAPTURE(c.problem);
  REQUIRE(problems.size() == (c.problem.empty() ? 0 : 1));
  if (!problems.empty()) CHECK_THAT(problems.front(), Catch::StartsWith(c.problem));
}
