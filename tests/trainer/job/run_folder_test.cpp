#include "trainer/job/run_folder.h"

#include <filesystem>

#include "core/error.h"
#include "support/catch.h"
#include "support/temp_folder.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;

std::string refusal(const std::string& folder) {
  try {
    check_folder_can_be_made(folder);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no refusal";
}

}  // namespace

TEST_CASE("a run folder that is there, or can be made, is taken") {
  const TempFolder folder;
  fs::create_directory(folder / "real");
  fs::create_directory_symlink("real", folder / "link");
  for (const char* name : {"real", "real/a/b", "link", "link/a", "link/", "new", "a/b/c"}) {
    INFO(name);
    CHECK(refusal(folder / name) == "no refusal");
  }
  CHECK_FALSE(fs::exists(folder / "new"));  // it is looked at, not made
}

TEST_CASE("a link that leads nowhere is no run folder, nor is what lies below one") {
  const TempFolder folder;
  fs::create_directory_symlink("not_mounted", folder / "link");
  fs::create_directory_symlink(folder / "round", folder / "round");
  for (const char* name : {"link", "link/", "link/run", "link/a/b"}) {
    INFO(name);
    CHECK(refusal(folder / name) ==
          fmt::format(
              "run.folder: {} cannot be made, {} is a link to not_mounted, which is not there; make that folder or "
              "remove the link",
              folder / name, folder / "link"));
  }
  CHECK_THAT(refusal(folder / "round/run"), Catch::Contains("is a link to"));
}

TEST_CASE("a file, or a path without room for the names in the folder, is no run folder") {
  const TempFolder folder;
  const auto file = folder.add("file", "");
  CHECK(refusal(file + "/run") == fmt::format("run.folder: {0}/run cannot be made, {0} is not a folder", file));
  std::string deep = folder / "";
  while (deep.size() < 3900) deep += "abc/";
  CHECK_THAT(refusal(deep), Catch::StartsWith("run.folder: ") && Catch::Contains("at most 3840"));
}
