#include "data/config.h"

#include "support/catch.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::TokenFolder;

namespace {

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

TEST_CASE("listed paths follow the paths of the config, each from the root") {
  TokenFolder folder;
  write_text(folder.path("files.txt"),
             "# training data\n\nc.npy\r\n  sub/d e.npy  \n   # more\n/absolute/f.npy");
  DataConfig config;
  config.paths = {"a.npy", "/elsewhere/b.npy"};
  config.paths_file = "files.txt";
  config.root = "/tokens";
  CHECK(token_paths(config, folder.path("")) ==
        std::vector<std::string>{"/tokens/a.npy", "/elsewhere/b.npy", "/tokens/c.npy",
                                 "/tokens/sub/d e.npy", "/absolute/f.npy"});
  config.root = "";
  config.paths_file = folder.path("files.txt");
  CHECK(token_paths(config, "/unused").front() == "a.npy");
  CHECK(token_paths(config, "/unused").size() == 5);
}

TEST_CASE("a config without a list has its own paths alone") {
  DataConfig config;
  CHECK(token_paths(config, "").empty());
  config.paths = {"a.npy"};
  CHECK(token_paths(config, "") == std::vector<std::string>{"a.npy"});
}

TEST_CASE("a list that cannot be read is a config error that names it") {
  TokenFolder folder;
  DataConfig config;
  for (const std::string& list : {folder.path("nowhere.txt"), folder.path("")}) {
    config.paths_file = list;
    const auto message = test::message_of<ConfigError>([&] { token_paths(config, ""); });
    CHECK(message == "data.paths_file: cannot read " + list +
                         "; it must be a text file with one token file a line");
  }
}

TEST_CASE("missing files are listed without an exception") {
  TokenFolder folder;
  const auto present = folder.write("a.npy", counting(4));
  const auto missing = folder.path("b.npy");
  const auto below_a_file = folder.path("a.npy/c.npy");
  CHECK(missing_files({missing, present, folder.path(""), below_a_file}) ==
        std::vector<std::string>{missing, folder.path(""), below_a_file});
  CHECK(missing_files({present}).empty());
}
