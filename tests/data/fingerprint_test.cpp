#include "data/fingerprint.h"

#include "support/catch.h"

using namespace olmoe;

TEST_CASE("fingerprints are compared by samples, and by all bytes if both have that hash") {
  const auto a = join_fingerprint("a", ""), a_full = join_fingerprint("a", "1");
  CHECK(a == "a");
  const auto verdict = [](const std::string& before, const std::string& now) {
    return compare_fingerprints(before, now);
  };
  CHECK(verdict(a, a).same);
  CHECK_FALSE(verdict(a, "b").same);
  CHECK(verdict(a_full, a_full).same);
  CHECK_FALSE(verdict(a_full, join_fingerprint("a", "2")).same);
  CHECK_FALSE(verdict(a_full, join_fingerprint("b", "1")).same);
  CHECK(verdict(a, a).note.empty());
  CHECK(verdict(a_full, a_full).note.empty());

  // data.verify changed: samples are compared, and a note warns that no more was.
  CHECK(verdict(a, a_full).same);
  CHECK(verdict(a, a_full).note.find("was saved with sample") != std::string::npos);
  CHECK(verdict(a_full, a).same);
  CHECK(verdict(a_full, a).note.find("was saved with full") != std::string::npos);
  CHECK_FALSE(verdict(a, join_fingerprint("b", "1")).same);
  CHECK_FALSE(verdict(a_full, "b").same);
}
