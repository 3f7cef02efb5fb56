// A config that was accepted at the start of a run is read back, however long its list of files is.
#include <ctime>

#include "core/reader/config_reader_yaml.h"
#include "support/catch.h"
#include "support/trainer_fixtures.h"
#include "trainer/checkpoint/manifest_config.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

constexpr size_t kFiles = 300'000;
constexpr double kPatience_s =
    120;  // for each way to read: some seconds on an idle machine, hours where it is quadratic

std::string name_of(size_t i) { return fmt::format("part-{:06}-{}.npy", i, std::string(40, 'x')); }

/// Of this process's time.
double seconds_since(std::clock_t begin) { return static_cast<double>(std::clock() - begin) / CLOCKS_PER_SEC; }

Config load(const std::string& config, const TempFolder& folder) {
  return load_config(config, {"run.folder=" + (folder / "run")});
}

}  // namespace

TEST_CASE("a run of 300,000 files, 40 MB of resolved config, is read back from config.yaml and its manifest") {
  const TempFolder folder;
  const std::string root = "/data/" + std::string(90, 'r');
  std::string list;
  for (size_t i = 0; i < kFiles; ++i) list += name_of(i) + "\n";
  folder.add("files.txt", list);
  const auto written = folder.add(
      "run.yaml", "train: {steps: 3}\nrun: {folder: run}\ndata: {paths_file: files.txt, root: " + root + "}\n");
  auto begin = std::clock();
  const auto config = load(written, folder);
  REQUIRE(config.data.paths.size() == kFiles);
  CHECK(config.data.paths.back() == root + "/" + name_of(kFiles - 1));
  const auto text = write_config(config);
  REQUIRE(text.size() > 40'000'000);
  CHECK(seconds_since(begin) < kPatience_s);

  SECTION("config.yaml is a config as any other") {
    begin = std::clock();
    const auto again = load(folder.add("run/config.yaml", text), folder);
    CHECK(write_config(again) == text);
    CHECK(seconds_since(begin) < kPatience_s);
  }
  SECTION("the manifest of a checkpoint") {
    begin = std::clock();
    Manifest manifest;
    manifest.config = text;
    manifest.files.push_back({"shard_00000.safetensors", 8, 8, "", {}});
    manifest.write(folder / ".");
    const auto saved = read_manifest_config(Manifest::read(folder / "."), folder / ".", UnknownKeys::refused);
    CHECK(differing_fields(saved.config, config).empty());
    CHECK(seconds_since(begin) < kPatience_s);
    auto other = config;
    other.data.paths.pop_back();
    const auto differing = differing_fields(saved.config, other);
    REQUIRE(differing.size() == 1);
    CHECK(differing[0].size() < 300);  // a line of a log
    CHECK_THAT(differing[0], Catch::StartsWith("data.paths: [/data/rrr") && Catch::Contains(" 300000 items) -> [") &&
                                 Catch::EndsWith(" 299999 items)"));
  }
}

TEST_CASE("a list that resolves to more than can be read back is refused at the start, by its key") {
  const TempFolder folder;
  std::string list;
  constexpr size_t kBytesOfPath = 4000;
  for (int64_t bytes = 0; bytes <= kMaxConfigBytes; bytes += kBytesOfPath) list += "x\n";
  folder.add("files.txt", list);
  std::string root;
  while (root.size() + 200 < kBytesOfPath) root += "/" + std::string(199, 'r');
  root += "/" + std::string(kBytesOfPath - root.size() - 3, 'r');
  const auto written = folder.add(
      "run.yaml", "train: {steps: 3}\nrun: {folder: run}\ndata: {paths_file: files.txt, root: " + root + "}\n");
  CHECK_THROWS_WITH(load(written, folder),
                    Catch::StartsWith(written + ": what it resolves to could not be read back: ") &&
                        Catch::EndsWith(" bytes, more than 268435456: name fewer files (data.paths)"));
}
