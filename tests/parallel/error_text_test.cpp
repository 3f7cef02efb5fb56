// Messages and exit codes of other libraries' errors.
#include "parallel/error_text.h"

#include <ATen/ops/zeros.h>
#include <c10/util/Exception.h>

#include "parallel/agreement.h"
#include "support/catch.h"

using namespace olmoe;

namespace {

/// The text and exit code of what `work` throws.
std::pair<std::string, ExitCode> message_and_code(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return {error_text(error), exit_code_of(error)};
  }
  return {"nothing", ExitCode::ok};
}

}  // namespace

TEST_CASE("a lack of memory is one line with the exit code of a config") {
  // In LibTorch's words: sanitizers end a program that asks for so much. tests/e2e/test_start.py does ask.
  const auto allocate = [] {
    TORCH_CHECK(false, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1125899906842624 bytes. ",
                "Error code 12 (Cannot allocate memory)");
  };
  for (const auto& work :
       std::vector<std::function<void()>>{allocate, [] { throw std::bad_alloc(); },
                                          [&] { agree(*make_single_communicator(), [&] { allocate(); }); }}) {
    const auto [text, code] = message_and_code(work);
    CHECK(code == ExitCode::config);
    CHECK_THAT(text, Catch::StartsWith("not enough memory: ") && Catch::Contains("--dry-run prints what a rank needs"));
    CHECK(text.find('\n') == std::string::npos);
  }
  CHECK_THAT(message_and_code(allocate).first, Catch::Contains("1125899906842624 bytes"));
}

TEST_CASE("other errors of LibTorch keep their message without the stack trace") {
  const auto [text, code] = message_and_code([] { at::zeros({2}).add_(at::zeros({3})); });
  CHECK(code == ExitCode::internal);
  CHECK_THAT(text, Catch::StartsWith("The size of tensor a (2) must match"));
  CHECK(text.find("frame #0") == std::string::npos);
  const auto ours = message_and_code([] { throw DataError("x"); });
  CHECK(ours.first == "x");
  CHECK(ours.second == ExitCode::data);
}
