// Texts, numbers and YAML that the config reader accepts, and those that it refuses.
#include <ctime>

#include "core/random.h"
#include "core/reader/config_reader.h"
#include "support/catch.h"
#include "support/run_config.h"
#include "support/temp_folder.h"

namespace olmoe {
using namespace sample;

TEST_CASE("integers are decimal digits, or a number with an exponent that is whole") {
  CHECK(read("steps: -9223372036854775808").steps == INT64_MIN);
  CHECK(read("steps: 9223372036854775807").steps == INT64_MAX);
  for (const char* bad :
       {"1.5", "1.0",    "0x10",  "0o17",  "017",           "00",     "1_000", "+5",   "--5", "12a", "1 2",
        "1e",  "1.25e1", "15e-1", "1e-30", "1e99999999999", "\"64\"", "'64'",  "true", "[]",  "{}",  "~"}) {
    INFO(bad);
    CHECK(problems(std::string("steps: ") + bad).starts_with("steps: expected an integer, got "));
  }
  CHECK(problems("steps: 9223372036854775808") ==
        "steps: expected an integer that fits in 64 bits, got '9223372036854775808' (x.yaml:1)");
  const std::vector<std::pair<const char*, int64_t>> whole{
      {"1e6", 1'000'000}, {"2.5e3", 2500}, {"-4E+2", -400},
      {"5000e-3", 5},     {"1.50e1", 15},  {"0.001e3", 1},
      {"0e99", 0},        {"-0.0e-7", 0},  {"9.223372036854775807e18", INT64_MAX}};
  for (const auto& [text, value] : whole) {
    INFO(text);
    CHECK(read(std::string("steps: ") + text).steps == value);
  }
  for (const char* large : {"1e19", "9.3e18", "1e999"})
    CHECK(problems(std::string("steps: ") + large).starts_with("steps: expected an integer that fits in 64 bits"));
  CHECK(problems("steps: 1_000") == "steps: expected an integer, got '1_000' (x.yaml:1), write 1000");
}

TEST_CASE("numbers follow JSON's grammar and are finite") {
  for (const auto& [text, value] : std::vector<std::pair<const char*, double>>{
           {"3", 3}, {"-0.5", -0.5}, {"6e-4", 6e-4}, {"1E+3", 1000}, {"0", 0}, {"1.25e2", 125}})
    CHECK(read(std::string("steps: 1\nlr: ") + text).lr == value);
  for (const char* bad : {".inf", "inf", "-.inf", ".nan", "nan", "1e999", "-1e999", "1e-999", "0x1p3", "1.", ".5", "1e",
                          "1e+", "01.5", "1.5f", "1_0.0", "+1.5", "\"0.5\"", "true"}) {
    INFO(bad);
    CHECK(problems(std::string("steps: 1\nlr: ") + bad).starts_with("lr: expected a number"));
  }
}

TEST_CASE("only true and false are booleans") {
  for (const char* bad : {"yes", "no", "on", "off", "True", "FALSE", "1", "0", "y", "\"true\"", "null"}) {
    INFO(bad);
    CHECK(problems(fmt::format("steps: 1\nmodel: {{use_bias: {}}}", bad))
              .starts_with("model.use_bias: expected true or false, got "));
  }
  const auto message = [](const std::string& word) { return problems("steps: 1", {"model.use_bias=" + word}); };
  CHECK(message("True") == "model.use_bias: expected true or false, got 'True' (command line), did you mean 'true'?");
  CHECK(message("off").ends_with("did you mean 'false'?"));
  CHECK(message("maybe").ends_with("(command line)"));
}

TEST_CASE("anything but one plain document of keys and values is refused") {
  const auto refused = [](const std::string& text, const std::string& message) {
    INFO(text);
    CHECK(problems(text) == message);
  };
  refused("steps: &a 1", "x.yaml:1: a config may not use an anchor");
  refused("steps: &a [1]", "x.yaml:1: a config may not use an anchor");
  refused("a: &x {}\nb: *x", "x.yaml:1: a config may not use an anchor");
  refused("steps: !!int 1", "x.yaml:1: a config may not use a tag");
  refused("model: !!map {}", "x.yaml:1: a config may not use a tag");
  refused("steps: 1\n---\nsteps: 2", "x.yaml:2: a config may not use more than one document");
  refused("? [a, b]\n: 1", "x.yaml:1: a config may not use a key that is not plain text");
  refused("{a: 1}: 2", "x.yaml:1: a config may not use a key that is not plain text");
  refused("~: 1", "x.yaml:1: a config may not use a key that is not plain text");
  refused("[1, 2]", "x.yaml: a config is a section: lines of 'key: value'");
  refused("just words", "x.yaml: a config is a section: lines of 'key: value'");
  refused(std::string("steps: 1\nname: a\0b", 19), "x.yaml:2: a config may not use control characters");
  refused("steps: 1\nname: \"\xff\"", "x.yaml:2: not UTF-8");
  refused("name: \"\xed\xa0\x80\"", "x.yaml:1: not UTF-8");
  CHECK(problems("steps: [1,\nlr: {").starts_with("x.yaml:2: invalid YAML: "));
  CHECK(problems("steps: *nowhere").starts_with("x.yaml:1: invalid YAML: "));
  CHECK(problems("") == "steps: required key is missing (x.yaml)");
  CHECK(problems("# nothing\n") == "steps: required key is missing (x.yaml)");
}

TEST_CASE("a value of several lines is refused with the line where it begins") {
  const std::string open = ": invalid YAML: a quote opens here and does not close on its line";
  const std::string below = "  seed: 5\noptimizer:\n  lr: 1e-5\n";
  CHECK(problems("steps: 1\nrun:\n  folder: \"runs/x\n" + below) == "x.yaml:3" + open);
  CHECK(problems("steps: 1\nrun:\n  folder: 'runs/x\n" + below) == "x.yaml:3" + open);
  CHECK(problems("steps: 1\nname: \"a\nnote: \"b\"\n") == "x.yaml:2" + open);  // closes where the next one opens
  CHECK(problems("steps: 1\nname: it's\nnote: 'b\nlr: 1 # 'x'\n") == "x.yaml:3" + open);
  CHECK(problems("steps: 1\nname: \"a\n  b\"\n") == "x.yaml:2" + open);
  CHECK(problems("steps: 1\n\"name\n x\": a\n") == "x.yaml:2" + open);
  CHECK(problems("steps: 1\nname: \"a\\\"\nlr: 1\n") == "x.yaml:2" + open);
  CHECK(problems("steps: 1\npaths: ['a, b]\nlr: 1\n") == "x.yaml:2" + open);
  CHECK(problems("steps: 1\nname: \"a\",\nlr: [\n").starts_with("x.yaml:"));  // no quote is open here
  CHECK(problems("steps: 1\nname: \"a\",\nlr: [\n").find("quote") == std::string::npos);
  const std::string several =
      ": a config may not use a value of several lines; for a line break in a text write \\n in double quotes";
  CHECK(problems("steps: 1\nname: a\n  b\n") == "x.yaml:2" + several);
  CHECK(problems("steps: 1\nname: |\n  a\n") == "x.yaml:2" + several);
  CHECK(problems("steps: 1\nname: >-\n  a\n") == "x.yaml:2" + several);
  CHECK(problems("steps: 1\npaths: [a,\n b\n c]\n") == "x.yaml:3" + several);
  CHECK(problems("steps: 1\nname: ! a\n") == "x.yaml:2: a config may not use a tag");
  CHECK(read("steps: 1\r\npaths: [a b,\r\n  'it''s', \"x\\\"y\\\\\",\r\n]\r\nname: \xe2\x82\xac \"q\" # c\r\n") ==
        read("steps: 1\npaths: ['a b', \"it's\", 'x\"y\\']\nname: '\xe2\x82\xac \"q\"'"));
  CHECK(read("\xef\xbb\xbfsteps: 7\nname: \"a\"\n").name == "a");
}

TEST_CASE("wrong indentation is reported with line and column") {
  const auto refused = [](const std::string& text, const std::string& message) {
    INFO(text);
    CHECK(problems(text) == "x.yaml:" + message);
  };
  const std::string wrong = ": invalid YAML: wrong indentation: ";
  const std::string tab = wrong + "a tab; indent with spaces";
  const std::string level = wrong + "this line is at the level of no section above it";
  refused("steps: 1\nmodel:\n\td_model: 8\n", "3:1" + tab);
  refused("steps: 1\nmodel:\n  d_model: 8\n \ttop_k: 2\n", "4:2" + tab);
  refused("steps: 1\nmodel:\n  d_model: 8\n   top_k: 2\n", "4:4" + level);
  refused("steps: 1\nmodel:\n    d_model: 8\n  top_k: 2\n", "4:3" + level);
  refused("steps: 1\n  name: a\n", "2:3" + level);
  refused("steps: 1\nsources:\n  - path: a\n      weight: 2\n", "4:7" + level);
  CHECK(problems("steps: 1\nmodel:\nlr: 1\n") ==
        "model: expected a section, got null (x.yaml:2), indent its keys below it");
  // Other mistakes keep the parser's words: comments, lists and sections above them are indented well.
  const std::string good =
      "steps: 1  # of: them\nsources:\n- path: a\n  weight: 2\n# a comment\n\nmodel:  # below\n  d_model: 8\n";
  CHECK(problems(good + "name: a: b\n") == "x.yaml:9: invalid YAML: illegal map value");
  CHECK(problems(good + "paths: [a,\n  b\n") == "x.yaml:11: invalid YAML: end of sequence flow not found");
  CHECK(problems(good + "paths: [a\n") == "x.yaml:10: invalid YAML: end of sequence flow not found");
}

TEST_CASE("every Unicode character reads back as it was written") {
  RunConfig config;
  const auto add = [&](uint32_t c) {
    std::string text;
    if (c < 0x80) {
      text = {static_cast<char>(c)};
    } else if (c < 0x800) {
      text = {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
    } else if (c < 0x10000) {
      text = {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
              static_cast<char>(0x80 | (c & 0x3f))};
    } else {
      text = {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3f)),
              static_cast<char>(0x80 | (c >> 6 & 0x3f)), static_cast<char>(0x80 | (c & 0x3f))};
    }
    for (const auto& each : {text, text + "a", "a" + text, "a " + text + " b"}) config.paths.push_back(each);
  };
  for (uint32_t c = 1; c < 0x2100; ++c) add(c);
  for (const uint32_t c : {0xd7ffu, 0xe000u, 0xfeffu, 0xfffdu, 0xfffeu, 0xffffu, 0x10000u, 0x10ffffu}) add(c);
  config.paths.push_back(std::string(255, 'n') + ".npy");
  const auto again = read(write_config(config));
  REQUIRE(again.paths.size() == config.paths.size());
  CHECK(again == config);
}

TEST_CASE("if a file does not parse only that and bad overrides are reported") {
  CHECK(problems("a: [", {"oops"}) ==
        "x.yaml:1: invalid YAML: end of sequence flow not found\noops: expected path.to.key=value "
        "(command line)");
}

TEST_CASE("depth and the number of keys and problems are bounded") {
  const auto nested = [](size_t levels) { return "steps: " + std::string(levels, '[') + std::string(levels, ']'); };
  CHECK(problems(nested(31)) == "steps: expected an integer, got a list (x.yaml:1)");
  CHECK(problems(nested(33)) == "x.yaml:1: a config may not use more than 32 levels");
  CHECK(problems(nested(100'000)).starts_with("x.yaml:1: "));
  CHECK(problems(std::string(100'000, '{')).starts_with("x.yaml:1: "));
  std::string many;
  for (int i = 0; i < 900; ++i) many += fmt::format("key{}: 1\n", i);
  CHECK(problems(many).ends_with("\n... and 701 more problems"));
  for (int i = 900; i < 1100; ++i) many += fmt::format("key{}: 1\n", i);
  CHECK(problems(many) == "x.yaml:1001: a config may not use more than 1000 keys in a section");
  CHECK(problems("steps: 1", {std::string(40'000, 'a') + "=1"}).size() < 200);
  std::string deep = "a";
  for (int i = 0; i < 50'000; ++i) deep += ".a";
  CHECK(problems("steps: 1", {deep + "=1"}).ends_with("expected path.to.key=value (command line)"));
}

TEST_CASE("a file that is no config is refused by its size before it is read whole") {
  const TempFolder folder;
  const auto path = folder.add("weights.bin", "a");
  std::filesystem::resize_file(path, (int64_t{256} << 20) + 1);
  CHECK_THROWS_WITH(read_config<sample::RunConfig>(path), "cannot read '" + path + "': over 268435456 bytes");
}

TEST_CASE("a list of 200,000 texts on one line is read in the time of its length") {
  constexpr size_t kTexts = 200'000;
  std::string text = "steps: 1\npaths: [";
  for (size_t i = 0; i < kTexts; ++i) text += fmt::format("/data/part-{:06}/{}.npy, ", i, std::string(100, 'x'));
  const auto begin = std::clock();  // time of this process: others may keep the machine busy
  const auto config = read(text + "\"with \\\"quotes\\\", and a comma\"]\n");
  CHECK((std::clock() - begin) / CLOCKS_PER_SEC <
        60);  // some seconds; hours where each text is sought to the end of its line
  REQUIRE(config.paths.size() == kTexts + 1);
  CHECK(config.paths[7] == "/data/part-000007/" + std::string(100, 'x') + ".npy");
  CHECK(config.paths.back() == "with \"quotes\", and a comma");
}

TEST_CASE("messages stay on one line whatever the keys hold") {
  CHECK(problems("steps: 1\n\"a\\nb\": 1") == "a\\nb: unknown key (x.yaml:2)");
  CHECK(problems("steps: 1\nlr: \"" + std::string(500, 'x') + "\"") ==
        "lr: expected a number, got the text '" + std::string(60, 'x') + "...' (x.yaml:2)");
}

// Random edits of a valid text: bytes changed, cut out, doubled, or replaced by what the format
// gives meaning to.
TEST_CASE("five thousand mutated configs end in a config or a ConfigError") {
  const std::string valid = R"(# a run
steps: 100
lr: 1e-3
colour: dark_blue
name: "64"
betas: [0.5, 1]
paths:
  - a/b.npy
  - 'with space'
sources: [{path: c.npy}, {path: d.npy, weight: 0.25}]
note: null
model: {d_model: 128, top_k: 4, use_bias: true, clip: 1.0}
)";
  REQUIRE(read(valid).steps == 100);
  const std::vector<std::string> tokens{"{",   "}",  "[",  "]", ":", ": ",   "- ",   "? ", "&a ", "*a",
                                        "!t ", "!",  "|",  ">", "#", "\"",   "'",    "\\", "%",   "---",
                                        "\n",  "\t", "  ", ",", "~", "<<: ", "\xff", "@"};
  const RandomStream random(1, "config fuzz");
  uint64_t draws = 0;
  const auto below = [&](size_t limit) { return static_cast<size_t>(random.bits(draws++) % limit); };
  int accepted = 0, refused = 0;
  for (int i = 0; i < 5000; ++i) {
    std::string text = valid;
    for (size_t edits = 1 + below(4); edits > 0; --edits) {
      const size_t at = below(text.size()), length = below(12);
      const std::string piece = text.substr(at, length);
      const size_t kind = below(4);
      if (kind == 0) text[at] = static_cast<char>(below(256));
      if (kind == 1) text.insert(at, tokens[below(tokens.size())]);
      if (kind == 2) text.erase(at, length);
      if (kind == 3) text.insert(below(text.size()), piece);
      if (text.empty()) text = "a";
    }
    INFO(text);
    try {
      const RunConfig config = read(text);
      REQUIRE(read(write_config(config)) == config);
      ++accepted;
    } catch (const ConfigError&) {
      ++refused;
    }
  }
  CHECK(accepted > 100);
  CHECK(refused > 1000);
}

}  // namespace olmoe
