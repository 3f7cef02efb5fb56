#include "data/config.h"

#include "support/catch.h"
#include "token_fixtures.h"

using namespace olmoe;
using test::counting;
using test::TokenFolder;

namespace {

void write_text(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

}  // namespace

TEST_CASE("a list names token files, relative ones below the root") {
  TokenFolder folder;
  const auto list = folder.path("files.txt");
  const std::string text = "# training data\n\nc.npy\r\n  sub/d e.npy  \n   # more\n/absolute/f.npy";
  write_text(list, text);
  const std::vector<std::string> expected{"/tokens/c.npy", "/tokens/sub/d e.npy", "/absolute/f.npy"};
  CHECK(read_path_list(list, "/tokens") == expected);
  CHECK(read_path_list(list, "").front() == "c.npy");
  write_text(list,
             "\xef\xbb\xbf"
             "c.npy\n" +
                 text);  // a byte-order mark
  CHECK(read_path_list(list, "").front() == "c.npy");
  CHECK(read_path_list(list, "").size() == 4);
  write_text(list, "");
  CHECK(read_path_list(list, "/tokens").empty());
}

TEST_CASE("a list that cannot be read is a ConfigError with its path") {
  TokenFolder folder;
  for (const std::string& list : {folder.path("nowhere.txt"), folder.path("")}) {
    const auto message = test::message_of<ConfigError>([&] { read_path_list(list, ""); });
    CHECK(message.find("'" + list + "'") != std::string::npos);
    CHECK(message.ends_with("; a list is a text file with one token file a line"));
  }
}

TEST_CASE("an invalid path in a list is a ConfigError with its line") {
  TokenFolder folder;
  const auto list = folder.path("files.txt");
  for (const std::string& line : {std::string("caf\xe9.npy"), std::string("a\x01.npy"), std::string("$HOME/a.npy"),
                                  std::string("~you/a.npy"), std::string(256, 'n')}) {
    write_text(list, "a.npy\n# more\n" + line + "\n");
    const auto message = test::message_of<ConfigError>([&] { read_path_list(list, ""); });
    INFO(message);
    CHECK(message.starts_with(list + ":3: '"));
  }
}

TEST_CASE("synthetic tokens take the place of files, and of nothing else") {
  DataConfig data;
  data.paths = {"a.npy", "b.npy"};
  data.sequence_length = 64;
  CHECK(data.all_paths() == std::vector<std::string>{"a.npy", "b.npy"});
  data.make_synthetic();
  CHECK(data.all_paths().empty());
  CHECK(data.synthetic);
  CHECK(data.sequence_length == 64);
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
