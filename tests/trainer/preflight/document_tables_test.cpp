// A dry run reads the tables of documents that the run would hold in memory, and counts them.
#include "core/text.h"
#include "support/gzip.h"
#include "support/trainer_fixtures.h"
#include "trainer/planner/memory_plan.h"
#include "trainer/preflight/dry_run.h"

using namespace olmoe;
using namespace olmoe::test;

TEST_CASE("a dry run counts document tables in the memory of a rank on a CPU") {
  constexpr int kDocuments = 400'000;  // of one token each
  const TempFolder folder;
  std::string rows;
  for (int i = 0; i < kDocuments; ++i) rows += fmt::format("{},{},x,f,1\n", i, i + 1);
  auto config = tiny_run(folder / "run");
  config.data.synthetic = false;
  config.data.paths = {folder.add("a.npy", token_bytes(kDocuments, 7))};
  write_gzip(folder / "a.csv.gz", rows);
  const auto planned = plan_memory(config, {}).total();
  const auto text_of = [&](DocumentMask mask) {
    config.data.document_mask = mask;
    return dry_run(config, 1, "", UnknownKeys::refused).text;
  };
  const auto with = text_of(DocumentMask::table), without = text_of(DocumentMask::none);
  CHECK_THAT(with, Catch::Contains("document tables: 400,000 documents, whose ends take 3.1 MiB of host memory"));
  CHECK_THAT(with, Catch::Contains("the plan of a rank is " + describe_size(planned + 8 * kDocuments)));
  CHECK_THAT(without, !Catch::Contains("document tables"));
  CHECK_THAT(without, Catch::Contains("the plan of a rank is " + describe_size(planned)));
}
