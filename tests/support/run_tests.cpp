// The only file that compiles Catch2 itself, where it comes as a single header.
#if __has_include(<catch2/catch.hpp>)
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#else
#include <catch2/catch_session.hpp>
#endif

#include "support/run_tests.h"

int olmoe::run_tests(int argc, char* argv[]) { return Catch::Session().run(argc, argv); }
