#include "core/process/piped_process.h"

#include "core/error.h"
#include "support/catch.h"

using namespace olmoe;
using Catch::Contains;

TEST_CASE("a piped process answers each line, however long") {
  PipedProcess process({"sh", "-c", "echo ready; while read -r line; do echo \"got $line\"; done"});
  CHECK(process.read_line() == "ready");
  CHECK(process.ask("one") == "got one");
  CHECK(process.ask("") == "got ");
  const std::string text(100'000, 'x');
  CHECK(process.ask(text) == "got " + text);
}

TEST_CASE("a piped process that ends, or is none, is an error that says so") {
  PipedProcess process({"sh", "-c", "read -r line; echo last; exit 5"});
  CHECK(process.ask("go") == "last");
  for (int again = 0; again < 2; ++again)
    CHECK_THROWS_WITH(process.read_line(), Contains("sh has ended, by exit code 5"));
  CHECK_THROWS_WITH(process.ask("more"), Contains("exit code 5"));
  PipedProcess killed({"sh", "-c", "kill -9 $$"});
  CHECK_THROWS_WITH(killed.read_line(), Contains("signal 9"));
  CHECK_THROWS_WITH(PipedProcess({"no-such-program-of-olmoe"}), Contains("no-such-program-of-olmoe cannot be started"));
}
