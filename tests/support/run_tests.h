#pragma once

namespace olmoe {

/// Runs the tests of this program as Catch2's own main would; the exit code.
int run_tests(int argc, char* argv[]);

}  // namespace olmoe
