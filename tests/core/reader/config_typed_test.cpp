// Overrides of the command line: values, hints, and the origin of values.
#include "core/reader/config_reader.h"

#include <cstdlib>

#include "support/catch.h"
#include "support/run_config.h"
#include "support/temp_folder.h"

namespace olmoe {
using namespace sample;
namespace {

struct Inner {
  int64_t rows = 1;
  template <class V>
  void fields(V& v) {
    v("rows", rows, {1, 8}, "of it");
  }
};

struct Outer {
  int64_t steps = 0, seed = 0;
  Inner inner;
  std::vector<Inner> list;
  template <class V>
  void fields(V& v) {
    v.required("steps", steps, {1}, "of a run");
    v("seed", seed, {0, INT64_MAX}, "of a run");
    v("inner", inner, "a section");
    v("list", list, "of sections");
  }
};

}  // namespace

TEST_CASE("a key of another section is suggested with its path") {
  CHECK(problems("steps: 1", {"d_model=3"}) == "d_model: unknown key (command line), did you mean 'model.d_model'?");
  CHECK(problems("steps: 1\nmodel: {step: 3}") == "model.step: unknown key (x.yaml:2), did you mean 'steps'?");
  CHECK(problems("steps: 1", {"model.topk=3"}) ==
        "model.topk: unknown key (command line), did you mean 'model.top_k'?");
  CHECK(problems("steps: 1", {"clipp=1"}) == "clipp: unknown key (command line), did you mean 'model.clip'?");
}

TEST_CASE("a key that is near none is answered with those of its section that share most of its parts") {
  const std::vector<std::string_view> keys{"router_z_weight", "load_balancing_weight", "output_z_weight",
                                           "attention_windows", "top_k"};
  using Names = std::vector<std::string_view>;
  CHECK(names_of_equal_parts("z_loss_weight", keys) == Names{"router_z_weight", "output_z_weight"});
  CHECK(names_of_equal_parts("window", keys) == Names{"attention_windows"});
  CHECK(names_of_equal_parts("balancing_of_loads", keys) == Names{"load_balancing_weight"});
  CHECK(names_of_equal_parts("gate", keys).empty());
  CHECK(names_of_equal_parts("_", keys).empty());
  CHECK(names_of_equal_parts("", keys).empty());
  CHECK(problems("steps: 1", {"model.bias_of_all=1"}) ==
        "model.bias_of_all: unknown key (command line), keys like it in this section: use_bias");
}

TEST_CASE("an override without a value is empty text") {
  CHECK(read("steps: 1\nname: a", {"name="}).name.empty());
  CHECK(read("steps: 1\nname: a", {"name=  "}).name.empty());
  CHECK(problems("", {"steps="}) == "steps: expected an integer, got the text '' (command line)");
  CHECK(problems("steps: 1", {"paths="}) == "paths: expected a list, got the text '' (command line)");
  CHECK(problems("steps: 1", {"paths=a.npy"}) ==
        "paths: expected a list, got 'a.npy' (command line), write paths=[a.npy]");
  CHECK(read("steps: 1", {"paths=[a.npy]"}).paths == std::vector<std::string>{"a.npy"});
  CHECK(problems("steps: 1", {"name=null"}) == "name: expected text, got null (command line), for none write \"\"");
}

TEST_CASE("an override is parsed completely or refused by name") {
  const std::string hint = "; text that looks like YAML needs quotes of its own: 'name=\"...\"'";
  for (const char* text :
       {"a #b",    "#b",   "--- a",  "a\n---\nb", "...",   "%TAG x", "&a b",  "*a",      "!t b",    "!!str b",
        "@b",      "`b",   "[a",     "a]: [",     "{a",    "\"a",    "'a",    "\"a\" b", "'a' #b",  "[a] #]",
        "- a\n b", "a\nb", "a\n\nb", "\"a\n b\"", "|\n a", "\xff",   "a\x01", "? a",     "a: b: c", "%"}) {
    INFO(text);
    const auto message = problems("steps: 1", {std::string("name=") + text});
    CHECK(message.starts_with("name: "));
    CHECK(message.find("command line") != std::string::npos);
    CHECK(message.find('\n') == std::string::npos);
    CHECK((message.ends_with(hint) || message.ends_with("put text in quotes")));
  }
  CHECK(problems("steps: 1", {"name=a #b"}) == "name: of 'a #b' only 'a' would be read (command line)" + hint);
  CHECK(problems("steps: 1", {"name=a: b"}) == "name: expected text, got a section (command line), put text in quotes");
  for (const auto& [typed, name] : std::vector<std::pair<const char*, const char*>>{{"\"a #b\"", "a #b"},
                                                                                    {"'a: b'", "a: b"},
                                                                                    {"a#b", "a#b"},
                                                                                    {" a b ", "a b"},
                                                                                    {"a\n", "a"},
                                                                                    {"it's \"q\"", "it's \"q\""},
                                                                                    {"\"*a\"", "*a"},
                                                                                    {"a, \"b", "a, \"b"}}) {
    INFO(typed);
    CHECK(read("steps: 1", {std::string("name=") + typed}).name == name);
  }
  const std::string longest(200'000, 'x');
  CHECK(read("steps: 1", {"name=" + longest}).name == longest);
}

TEST_CASE("the tree has where each value comes from") {
  const TempFolder folder;
  const std::string parent = folder.add("sub/parent.yaml", "steps: 1\nname: a\nmodel: {top_k: 1}\n");
  const std::string child = folder.add("child.yaml", "base: sub/parent.yaml\npaths: [b]\n");
  ConfigNode tree;
  read_config<RunConfig>(child, {"lr=1", "model.d_model=4"}, &tree);
  CHECK(tree.find("name")->file == parent);
  CHECK(tree.find("paths")->file == child);
  CHECK(tree.find("model")->find("top_k")->file == parent);
  CHECK(tree.find("model")->find("d_model")->file.empty());
  CHECK(tree.find("lr")->file.empty());
}

TEST_CASE("the path of a base is resolved like other paths of users") {
  const TempFolder folder;
  folder.add("home/parent.yaml", "steps: 3\n");
  const std::string child = folder.add("child.yaml", "base: ~/parent.yaml\n");
  const std::string home = std::getenv("HOME") ? std::getenv("HOME") : "";
  ::setenv("HOME", (folder / "home").c_str(), 1);
  const auto steps = read_config<RunConfig>(child).steps;
  ::setenv("HOME", home.c_str(), 1);
  CHECK(steps == 3);
  const std::string bad = folder.add("bad.yaml", "base: ${HOME}/parent.yaml\n");
  CHECK_THROWS_WITH(read_config<RunConfig>(bad), Catch::StartsWith("base: '${HOME}/parent.yaml': variables are not ") &&
                                                     Catch::EndsWith("(" + bad + ":1)"));
}

struct Files {
  std::vector<std::string> paths;
  std::string name;
  template <class V>
  void fields(V& v) {
    v.required("paths", paths, "of the set").data_files();
    v("name", name, "of the set");
  }
};

struct FileSets {
  int64_t threads = 1;
  Files first;
  std::vector<Files> sets, others;
  template <class V>
  void fields(V& v) {
    v("threads", threads, {1, 8}, "of a host").per_host();
    v("first", first, "a section");
    v("sets", sets, "a list of sections");
    v("others", others, "more of them").per_host();
  }
};

TEST_CASE("fields are visited by their paths, with their marks, into sections where the visitor says so") {
  FileSets config{1, {{"a"}, "one"}, {{{"b", "c"}, "two"}, {{"d"}, "three"}}, {{{"e"}, "four"}}};
  std::vector<std::string> seen, per_host;
  visit_fields(config, [&](const std::string& path, const ConfigField& field) {
    seen.push_back(path);
    if (field.is_per_host) per_host.push_back(path);
    if (field.is_data_files)
      for (auto& file : *field.texts) file = "/tokens/" + file;
    return path != "others";
  });
  CHECK(seen == std::vector<std::string>{"threads", "first", "first.paths", "first.name", "sets", "sets[0].paths",
                                         "sets[0].name", "sets[1].paths", "sets[1].name", "others"});
  CHECK(per_host == std::vector<std::string>{"threads", "first.paths", "sets[0].paths", "sets[1].paths", "others"});
  CHECK(config.first.paths == std::vector<std::string>{"/tokens/a"});
  CHECK(config.sets[0].paths == std::vector<std::string>{"/tokens/b", "/tokens/c"});
  CHECK(config.others[0].paths == std::vector<std::string>{"e"});
  ConfigFields fields;
  CHECK_THROWS_WITH(fields("threads", config.threads, "one number").data_files(),
                    Catch::Contains("threads is no list of text"));
}

TEST_CASE("integers out of range are reported with their paths") {
  const Outer bad{int64_t{1} << 31, -1, {0}, {{1}, {9}}};
  CHECK(values_out_of_range(bad, "top") ==
        std::vector<std::string>{"top.steps: 2147483648 must be between 1 and 2147483647",
                                 "top.seed: -1 must be between 0 and 9223372036854775807",
                                 "top.inner.rows: 0 must be between 1 and 8",
                                 "top.list[1].rows: 9 must be between 1 and 8"});
  CHECK(values_out_of_range(Outer{1, 0, {}, {}}).empty());
  CHECK(read_config_text<Inner>("rows: 9", "x.yaml").rows == 9);  // ranges are looked at by who asks, not by reading
  CHECK(document_config<Inner>().find("| `rows` | integer, 1 to 8 | `1` | of it |") != std::string::npos);
}

}  // namespace olmoe
