#include "core/reader/config_reader.h"

#include <cmath>
#include <limits>

#include "support/catch.h"
#include "support/run_config.h"
#include "support/temp_folder.h"

namespace olmoe {
using namespace sample;
namespace {

std::string problems_of_file(const std::string& path, const std::vector<std::string>& overrides = {}) {
  try {
    read_config<RunConfig>(path, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no problem";
}

}  // namespace

TEST_CASE("a config is read; fields that it lacks keep their defaults") {
  const RunConfig config = read(R"(
steps: 100
lr: 1e-3
colour: dark_blue
name: "64"
betas: [0.5, 1]
paths:
  - a/b.npy
  - 'with space'
sources: [{path: c.npy}, {path: d.npy, weight: 0.25}]
model:
  use_bias: true
  clip: 1.0
)");
  CHECK(config.steps == 100);
  CHECK(config.lr == 1e-3);
  CHECK(config.colour == Colour::dark_blue);
  CHECK(config.name == "64");
  CHECK(config.betas == std::vector<double>{0.5, 1.0});
  CHECK(config.paths == std::vector<std::string>{"a/b.npy", "with space"});
  CHECK(config.sources == std::vector<Source>{{"c.npy", 1}, {"d.npy", 0.25}});
  CHECK(config.model == ModelConfig{64, 2, true, 1.0});
  CHECK_FALSE(config.note);
}

TEST_CASE("null unsets an optional and nothing else") {
  CHECK_FALSE(read("steps: 1\nmodel: {clip: 2}", {"model.clip=null"}).model.clip);
  CHECK(problems("steps: null") == "steps: expected an integer, got null (x.yaml:1)");
  CHECK(problems("steps: 1\nname:") == "name: expected text, got null (x.yaml:2), for none write \"\"");
  CHECK(problems("steps: 1\nmodel:") == "model: expected a section, got null (x.yaml:2), indent its keys below it");
}

TEST_CASE("all problems are reported at once, one per line, with their places") {
  CHECK(problems(R"(lr: fast
colour: dark_blu
betas: 0.9
lr: 1
sources: [{weight: 2}, 7]
model:
  topk: 3
  use_bias: "true"
  d_model: [1]
)",
                 {"model.clip=abc", "nam=x", "broken"}) ==
        "lr: duplicate key (x.yaml:4), first at x.yaml:1\n"
        "broken: expected path.to.key=value (command line)\n"
        "nam: unknown key (command line), did you mean 'name'?\n"
        "steps: required key is missing (x.yaml)\n"
        "lr: expected a number, got 'fast' (x.yaml:1)\n"
        "colour: expected one of red, dark_blue, got 'dark_blu' (x.yaml:2), did you mean "
        "'dark_blue'?\n"
        "betas: expected a list, got '0.9' (x.yaml:3), write [0.9]\n"
        "sources[0].path: required key is missing (x.yaml:5)\n"
        "sources[1]: expected a section, got '7' (x.yaml:5)\n"
        "model.topk: unknown key (x.yaml:7), did you mean 'model.top_k'?\n"
        "model.d_model: expected an integer, got a list (x.yaml:9)\n"
        "model.use_bias: expected true or false, got the text 'true' (x.yaml:8)\n"
        "model.clip: expected a number, got 'abc' (command line)");
}

TEST_CASE("a word far from every key gets no suggestion") {
  CHECK(problems("steps: 1\nzebra: 1") == "zebra: unknown key (x.yaml:2)");
}

TEST_CASE("overrides follow the rules of the file") {
  CHECK(read("steps: 1\nmodel: {d_model: 8}", {"model.d_model=16", "steps=7", "betas=[0.1]"}).model.d_model == 16);
  CHECK(read("steps: 1", {"model={d_model: 5}", "model.top_k=4"}).model == ModelConfig{5, 4, false, {}});
  CHECK(read("steps: 1", {"name=a=b"}).name == "a=b");
  CHECK(read("steps: 1", {"steps=2", "steps=3"}).steps == 3);
  CHECK(read("", {"steps=2"}).steps == 2);
  CHECK(problems("steps: 1", {"model.d_model=1.5"}) == "model.d_model: expected an integer, got '1.5' (command line)");
  CHECK(problems("steps: 1", {"model=3"}) == "model: expected a section, got '3' (command line)");
  CHECK(problems("steps: 1", {"base=y.yaml"}) == "base: is allowed in a file only (command line)");
  CHECK(problems("", {"lr=1"}) == "steps: required key is missing (x.yaml)");
  for (const char* bad : {"", "=", "steps", "=1", ".steps=1", "steps.=1", "a..b=1", "a b=1", "a[0]=1"}) {
    INFO(bad);
    CHECK(problems("steps: 1", {bad}) == fmt::format("{}: expected path.to.key=value (command line)", bad));
  }
}

TEST_CASE("a file overrides its base") {
  const TempFolder folder;
  folder.add("grandparent.yaml", "steps: 1\nlr: 0.5\nbetas: [1, 2, 3]\nmodel: {d_model: 8, top_k: 4}\n");
  folder.add("sub/parent.yaml", "base: ../grandparent.yaml\nbetas: [7]\n\nmodel:\n  top_k: 1\n");
  const std::string path = folder.add("child.yaml", "base: sub/parent.yaml\nmodel: {clip: 3}\nname: child\n");
  const RunConfig config = read_config<RunConfig>(path, {"model.d_model=9"});
  CHECK(config.steps == 1);
  CHECK(config.lr == 0.5);
  CHECK(config.name == "child");
  CHECK(config.betas == std::vector<double>{7});
  CHECK(config.model == ModelConfig{9, 1, false, 3.0});
}

TEST_CASE("a problem names the file that it is in") {
  const TempFolder folder;
  const std::string parent = folder.add("parent.yaml", "\nmodel:\n  topk: 1\n");
  const std::string child = folder.add("child.yaml", "base: parent.yaml\nlr: fast\n");
  CHECK(problems_of_file(child) ==
        fmt::format("steps: required key is missing ({})\nlr: expected a number, got 'fast' ({}:2)\n"
                    "model.topk: unknown key ({}:3), did you mean 'model.top_k'?",
                    child, child, parent));
}

TEST_CASE("a base that is missing, broken, nameless or a cycle is an error") {
  const TempFolder folder;
  const std::string lost = folder.add("lost.yaml", "base: gone.yaml\n");
  CHECK(problems_of_file(lost) ==
        fmt::format("base: cannot open '{}': No such file or directory ({}:1)", folder / "gone.yaml", lost));
  const std::string a = folder.add("a.yaml", "base: b.yaml\n");
  const std::string b = folder.add("b.yaml", "steps: 1\nbase: ./sub/../a.yaml\n");
  CHECK(problems_of_file(a) == fmt::format("base: a cycle: {} -> {} -> {} ({}:2)", a, b, a, b));
  CHECK(
      problems_of_file(folder.add("list.yaml", "base: [a.yaml]\n")).starts_with("base: expected the path of a file ("));
  const std::string broken = folder.add("broken.yaml", "a: [\n");
  CHECK(problems_of_file(folder.add("c.yaml", "base: broken.yaml\n")).starts_with(broken + ":"));
  std::string last;
  for (int i = 0; i < 30; ++i) last = folder.add(fmt::format("{}.yaml", i), fmt::format("base: {}.yaml\n", i - 1));
  CHECK(problems_of_file(last).starts_with("base: too many bases: "));
}

TEST_CASE("a file that cannot be read is a ConfigError with the reason") {
  const TempFolder folder;
  CHECK(problems_of_file(folder / "none.yaml") ==
        fmt::format("cannot open '{}': No such file or directory", folder / "none.yaml"));
  CHECK(problems_of_file(folder / "") == fmt::format("cannot read '{}': not a regular file", folder / ""));
  CHECK(problems_of_file("/dev/zero") == "cannot read '/dev/zero': not a regular file");
}

TEST_CASE("what is written reads back equal") {
  RunConfig config;
  config.steps = INT64_MIN;
  config.colour = Colour::dark_blue;
  config.betas = {0.1, 1e-300, 1.7976931348623157e308, 5e-324, -0.0, 1.0 / 3.0, 0.00060000000000000006};
  config.note = "null";
  config.model.clip = 6e-4;
  for (const char* text : {"",
                           " ",
                           "null",
                           "~",
                           "true",
                           "No",
                           "12",
                           "0x1f",
                           ".5",
                           "1e3",
                           "a: b",
                           "# c",
                           "- d",
                           "[e",
                           "{f",
                           "&g",
                           "*h",
                           "!i",
                           "|",
                           ">",
                           "%j",
                           "@k",
                           "`",
                           "'",
                           "\"",
                           "\\",
                           "a\nb",
                           "a\tb",
                           "\x01\x7f",
                           "gr\xc3\xbc\xc3\x9f",
                           "\xf0\x9f\x8c\x8d",
                           "trailing ",
                           "=",
                           "<<",
                           "?",
                           ",",
                           "a,b",
                           "a/b.npy"})
    config.paths.push_back(text);
  for (int i = 0; i < 20; ++i) config.sources.push_back({fmt::format("file {}, of: many", i), 0.1 * i});
  CHECK(read(write_config(config)) == config);
  config.note.reset();
  config.paths.clear();
  config.sources.clear();
  CHECK(read(write_config(config)) == config);
}

TEST_CASE("a config is written with few digits and short lines") {
  RunConfig config;
  config.steps = 3;
  config.lr = 0.0006;
  config.sources = {{"a b", 0.1}};
  config.paths = {std::string(60, 'a'), std::string(60, 'b')};
  CHECK(write_config(config) == "steps: 3\nlr: 6e-04\ncolour: red\nname: run\nbetas: [0.9, 0.95]\npaths:\n  - " +
                                    config.paths[0] + "\n  - " + config.paths[1] +
                                    "\nsources: [{path: \"a b\", weight: 0.1}]\nnote: null\nmodel:\n"
                                    "  d_model: 64\n  top_k: 2\n  use_bias: false\n  clip: null\n");
  config.lr = std::numeric_limits<double>::infinity();
  CHECK_THROWS_AS(write_config(config), Error);
}

TEST_CASE("the documentation names every key, type, default and meaning") {
  CHECK(document_config<RunConfig>() ==
        "| key | type | default | meaning |\n"
        "| --- | --- | --- | --- |\n"
        "| `steps` | integer | required | optimizer steps |\n"
        "| `lr` | number | `4e-04` | peak learning rate |\n"
        "| `colour` | one of red, dark_blue | `red` | of the curve |\n"
        "| `name` | text | `run` | of the run |\n"
        "| `betas` | list of number | `[0.9, 0.95]` | of Adam |\n"
        "| `paths` | list of text | `[]` | token files |\n"
        "| `sources` | list of section | `[]` | the mixture |\n"
        "| `sources[].path` | text | required | a token file |\n"
        "| `sources[].weight` | number | `1` | share \\| of the mixture |\n"
        "| `note` | text or null | `null` | free text |\n"
        "| `model.d_model` | integer | `64` | model width D |\n"
        "| `model.top_k` | integer | `2` | experts for each token |\n"
        "| `model.use_bias` | true or false | `false` | adds a bias |\n"
        "| `model.clip` | number or null | `null` | largest gradient norm |\n");
}

TEST_CASE("differing fields are listed with both values") {
  RunConfig a, b;
  CHECK(differing_fields(a, b).empty());
  b.model.d_model = 512;
  b.model.clip = 1;
  b.lr = std::nextafter(a.lr, 1);
  b.sources = {{"x", 2}};
  b.name = "1";
  CHECK(differing_fields(a, b) == std::vector<std::string>{"lr: 4e-04 -> 0.0004000000000000001", "name: run -> \"1\"",
                                                           "sources: [] -> [{path: x, weight: 2}]",
                                                           "model.d_model: 64 -> 512", "model.clip: null -> 1"});
}

}  // namespace olmoe
