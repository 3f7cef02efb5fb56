#include "data/same_files.h"

#include "support/catch.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::TokenFolder;

namespace {

using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs pairs(const std::vector<SameFile>& files) {
  Pairs out;
  for (const auto& file : files) out.emplace_back(file.first, file.second);
  return out;
}

}  // namespace

TEST_CASE("the same path twice and links are one file, a copy is a different file") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(4)), copy = folder.write("copy.npy", counting(4));
  const auto soft = folder.path("soft.npy"), hard = folder.path("hard.npy"), missing = folder.path("missing.npy"),
             round_about = folder.path("./a.npy");
  std::filesystem::create_symlink(a, soft);
  std::filesystem::create_hard_link(a, hard);
  CHECK(pairs(repeated_files(identify_files({a, copy, missing, missing}))) == Pairs{});
  CHECK(pairs(repeated_files(identify_files({copy, a, soft, hard, a, round_about}))) ==
        Pairs{{a, soft}, {a, hard}, {a, a}, {a, round_about}});
  CHECK(pairs(shared_files(identify_files({copy, a}), identify_files({soft, missing, hard, round_about}))) ==
        Pairs{{a, soft}, {a, hard}, {a, round_about}});
  CHECK(pairs(shared_files(identify_files({a, a}), identify_files({copy}))) == Pairs{});
}

TEST_CASE("files are identified once, and compared without access to them") {
  TokenFolder folder;
  const auto a = folder.write("a.npy", counting(4));
  const auto files = identify_files({a, a});
  std::filesystem::remove(a);
  CHECK(pairs(repeated_files(files)) == Pairs{{a, a}});
  CHECK(pairs(shared_files(files, files)) == Pairs{{a, a}, {a, a}});
}
