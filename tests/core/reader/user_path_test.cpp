#include "core/reader/user_path.h"

#include <cstdlib>

#include "core/error.h"
#include "support/catch.h"

namespace olmoe {
namespace {

std::string refusal(std::string_view text) {
  try {
    return "no refusal: " + user_path(text, "");
  } catch (const ConfigError& error) {
    return error.what();
  }
}

/// HOME of the process while it lives.
class Home {
 public:
  explicit Home(const char* value) {
    if (const char* before = std::getenv("HOME")) before_ = before;
    value ? ::setenv("HOME", value, 1) : ::unsetenv("HOME");
  }
  ~Home() { ::setenv("HOME", before_.c_str(), 1); }

 private:
  std::string before_;
};

}  // namespace

TEST_CASE("a relative path starts from the folder, an absolute one stays") {
  CHECK(user_path("a/b.npy", "") == "a/b.npy");
  CHECK(user_path("a/b.npy", "configs") == "configs/a/b.npy");
  CHECK(user_path("../b", "configs") == "configs/../b");
  CHECK(user_path("/a/b", "configs") == "/a/b");
  CHECK(user_path("./~x", "") == "./~x");
  CHECK(user_path("a~/b", "") == "a~/b");
  CHECK(user_path("cost$5 gr\xc3\xbcn #1", "") == "cost$5 gr\xc3\xbcn #1");
}

TEST_CASE("~ is the home folder") {
  const Home home("/home/me");
  CHECK(user_path("~", "configs") == "/home/me");
  CHECK(user_path("~/runs/x", "configs") == "/home/me/runs/x");
  CHECK_THAT(refusal("~you/x"), Catch::StartsWith("'~you/x': ") && Catch::Contains("./~you/x"));
}

TEST_CASE("~ without a home is refused") {
  const Home none(nullptr);
  CHECK(refusal("~/x") == "'~/x': HOME is not set; write the folder itself");
}

TEST_CASE("shell variables and homes of other users are refused, with what to write") {
  for (const char* path : {"${HOME}/x", "$HOME/x", "runs/$USER", "a${b", "x$_y"}) {
    INFO(path);
    CHECK_THAT(refusal(path), Catch::StartsWith(fmt::format("'{}': variables are not replaced", path)) &&
                                  Catch::Contains("write the folder itself"));
  }
}

TEST_CASE("paths that a config cannot write or a file system does not accept are refused") {
  CHECK(refusal("") == "an empty path");
  CHECK(refusal("a\nb") == "'a\\nb': a path may not hold control characters; rename the file");
  CHECK_THAT(refusal("a\x7f"), Catch::Contains("control characters"));
  CHECK_THAT(refusal("gr\xc3\xbcn/caf\xe9.npy"), Catch::StartsWith("'gr\xc3\xbcn/caf\\xe9.npy': a path must be UTF-8"));
  const std::string name(255, 'n');
  CHECK(user_path("a/" + name, "") == "a/" + name);
  CHECK_THAT(refusal("a/" + name + "n"), Catch::Contains("a name of 256 bytes"));
  std::string deep;
  while (deep.size() < 4095) deep += "ab/";
  CHECK(user_path(std::string_view(deep).substr(0, 4095), "").size() == 4095);
  CHECK_THAT(refusal(deep + "ab/"), Catch::Contains("bytes, and file systems take paths of at most 4095"));
}

}  // namespace olmoe
