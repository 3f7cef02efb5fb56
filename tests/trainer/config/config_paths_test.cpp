// Where paths of a config start, by where they were written.
#include <cstdlib>
#include <filesystem>

#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/config/config.h"

namespace {

using namespace olmoe;

const std::string kRun = "run: {folder: runs/x}\ntrain: {steps: 1}\n";

std::string refusal(const std::string& path, const std::vector<std::string>& overrides = {}) {
  try {
    load_config(path, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no refusal";
}

using Paths = std::vector<std::string>;

}  // namespace

TEST_CASE("a list starts from the folder of the file that names it, also of a base") {
  const TempFolder folder;
  folder.add("configs/data/files.txt", "a.npy\n/b.npy\n");
  const auto base =
      folder.add("configs/run.yaml", kRun + "data: {paths: [first.npy], paths_file: data/files.txt, root: /tokens}\n");
  const auto child = folder.add("mine/exp.yaml", "base: ../configs/run.yaml\ntrain: {steps: 2}\n");
  for (const auto& path : {base, child}) {
    const auto config = load_config(path, {});
    CHECK(config.data.paths == Paths{"/tokens/first.npy", "/tokens/a.npy", "/b.npy"});
    CHECK(config.data.paths_file.empty());
    CHECK(config.data.root.empty());
    CHECK(config.run.folder == "runs/x");
  }
}

TEST_CASE("what is typed starts where it is typed") {
  const TempFolder folder;
  const auto list = folder.add("lists/files.txt", "a.npy\n");
  const auto path =
      folder.add("configs/run.yaml", kRun + "data: {paths: [a.npy], root: /tokens}\nevaluation: {paths: [e.npy]}\n");
  const auto typed = load_config(path, {"data.paths=[b.npy, sub/c.npy]", "evaluation.paths=[f.npy]",
                                        "evaluation.sets=[{name: s, paths: [g.npy]}]"});
  CHECK(typed.data.paths == Paths{"b.npy", "sub/c.npy"});
  CHECK(typed.evaluation.paths == Paths{"f.npy"});
  CHECK(typed.evaluation.sets.at(0).paths == Paths{"g.npy"});
  CHECK(load_config(path, {"data.paths=[b.npy]", "data.root=other"}).data.paths == Paths{"other/b.npy"});
  CHECK(load_config(path, {"data.root=other"}).data.paths == Paths{"other/a.npy"});
  CHECK(load_config(path, {"data.root=other"}).evaluation.paths == Paths{"other/e.npy"});
  // A typed list is looked for from here; what stands in it starts from the root, as in any file.
  const auto here = std::filesystem::relative(list).string();
  CHECK(load_config(path, {"data.paths=[]", "data.paths_file=" + here}).data.paths == Paths{"/tokens/a.npy"});
  CHECK_THAT(refusal(path, {"data.paths_file=files.txt"}),
             Catch::Contains("data.paths_file: cannot open 'files.txt': No such file or directory") &&
                 Catch::EndsWith("(command line)"));
}

TEST_CASE("~ is the home folder in every path, and it is written out in what resolves") {
  const TempFolder folder;
  folder.add("files.txt", "~/c.npy\n");
  const auto path = folder.add("run.yaml", R"(
run: {folder: ~/runs/x}
train: {steps: 1, init_from: ~/weights}
data: {paths: [~/a.npy, b.npy], paths_file: ~/files.txt, root: ~/tokens}
evaluation: {paths: [~/e.npy], sets: [{name: s, paths: [~/f.npy, g.npy]}]}
)");
  const std::string before = std::getenv("HOME") ? std::getenv("HOME") : "", home = folder / "";
  ::setenv("HOME", (folder / "").substr(0, home.size() - 1).c_str(), 1);
  const auto config = load_config(path, {});
  ::setenv("HOME", before.c_str(), 1);
  CHECK(config.run.folder == home + "runs/x");
  CHECK(config.train.init_from == home + "weights");
  CHECK(config.data.paths == Paths{home + "a.npy", home + "tokens/b.npy", home + "c.npy"});
  CHECK(config.evaluation.paths == Paths{home + "e.npy"});
  CHECK(config.evaluation.sets.at(0).paths == Paths{home + "f.npy", home + "tokens/g.npy"});
}

TEST_CASE("every path that cannot be used is reported with its key and place") {
  const TempFolder folder;
  const auto path = folder.add("run.yaml", R"(run: {folder: "${HOME}/x"}
train:
  steps: 1
  init_from: ~you/weights
data: {paths: [a.npy, $DATA/b.npy, ""], paths_file: $X/files.txt, root: $ROOT}
evaluation: {sets: [{name: s, paths: [a.npy, "a\nb"]}]}
)");
  const auto message = refusal(path, {"evaluation.paths=[$E/a.npy]"});
  for (const auto& problem :
       {"run.folder: '${HOME}/x': variables are not replaced", "train.init_from: '~you/weights': homes",
        "data.root: '$ROOT': variables", "data.paths[1]: '$DATA/b.npy': variables", "data.paths[2]: an empty path",
        "data.paths_file: '$X/files.txt': variables",
        "evaluation.sets[0].paths[1]: 'a\\nb': a path may not hold control characters",
        "evaluation.paths[0]: '$E/a.npy': variables"})
    CHECK_THAT(message, Catch::Contains(problem));
  CHECK_THAT(message, Catch::Contains("(" + path + ":4)") && Catch::Contains("(command line)"));
}

TEST_CASE("what a run of long names resolves to can be read back") {
  const TempFolder folder;
  std::string list;
  constexpr int kFiles = 60'000;
  for (int i = 0; i < kFiles; ++i) list += fmt::format("{}/part-{:05}.npy\n", std::string(80, 'x'), i);
  folder.add("files.txt", list);
  const auto path = folder.add("run.yaml", kRun + "data: {paths_file: files.txt}\n");
  const auto config = load_config(path, {});
  REQUIRE(config.data.paths.size() == kFiles);
  REQUIRE(write_config(config).size() > 5 << 20);
  CHECK(read_config_text<Config>(write_config(config), "manifest.json").data.paths == config.data.paths);
}

TEST_CASE("paths of a resolved config stay as they are") {
  // As checkpoints of earlier versions hold them: a folder of that name was made.
  const auto text =
      "run: {folder: \"~/runs/${HOME}\"}\ntrain: {steps: 1, init_from: \"\"}\ndata: {paths: [\"~/a.npy\"]}\n";
  const auto config = read_config_text<Config>(text, "manifest.json");
  CHECK(config.run.folder == "~/runs/${HOME}");
  CHECK(config.data.paths == Paths{"~/a.npy"});
}
