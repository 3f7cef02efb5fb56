// olmoe-traces RUN_FOLDER/traces
#include <CLI/CLI.hpp>
#include <cstdio>

#include "core/error.h"
#include "trainer/job/watchdog.h"

int main(int argc, char* argv[]) {
  std::string folder;
  CLI::App app{"Compares the last collective calls of each rank of a run that hung or failed."};
  app.add_option("folder", folder, "RUN_FOLDER/traces")->required();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(olmoe::ExitCode::config);
  }
  try {
    std::fputs(olmoe::compare_trace_folder(folder).c_str(), stdout);
    return static_cast<int>(olmoe::ExitCode::ok);
  } catch (const olmoe::Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  }
}
