// Bytes as text, tokenizers in a child process, and texts that are printed one after another.
#include "trainer/generation/text_codec.h"

#include "core/error.h"
#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/generation/json_tokenizer.h"
#include "trainer/generation/ordered_output.h"

using namespace olmoe;
using Catch::Contains;

namespace {

/// What each id prints, and at last the end, of one text.
std::vector<std::string> parts_of(TextCodec& codec, const std::vector<int64_t>& ids) {
  std::vector<std::string> out;
  for (const int64_t id : ids) out.push_back(codec.decode(0, id));
  out.push_back(codec.finish(0));
  return out;
}

using Parts = std::vector<std::string>;
const std::string kUnknown = "\xef\xbf\xbd";

/// A child that answers by what a request has.
JsonTokenizer shell_child(const std::string& first, const std::string& cases) {
  return JsonTokenizer(
      {"sh", "-c",
       "printf '%s\\n' '" + first + "'; while read -r line; do case \"$line\" in " + cases + " esac; done"});
}

}  // namespace

TEST_CASE("bytes are ids, and characters are printed when they are whole") {
  ByteCodec codec;
  CHECK(codec.num_ids() == 257);
  CHECK(codec.end_id() == 256);
  CHECK(codec.encode("h\xc3\xa9\xff") == std::vector<int64_t>{0x68, 0xc3, 0xa9, 0xff});
  CHECK(parts_of(codec, {0x68, 0xc3, 0xa9}) == Parts{"h", "", "\xc3\xa9", ""});
  CHECK(parts_of(codec, {0xf0, 0x9f, 0x98, 0x80, 0x61}) == Parts{"", "", "", "\xf0\x9f\x98\x80", "a", ""});
}

TEST_CASE("bytes that are in no character are replaced, at once where nothing can follow") {
  ByteCodec codec;
  CHECK(parts_of(codec, {0xff, 0x80}) == Parts{kUnknown, kUnknown, ""});
  CHECK(parts_of(codec, {0xc3, 0x61}) == Parts{"", kUnknown + "a", ""});
  CHECK(parts_of(codec, {0xe2, 0x82}) == Parts{"", "", kUnknown + kUnknown});
  CHECK(parts_of(codec, {0xe0, 0x80}) == Parts{"", kUnknown + kUnknown, ""});  // overlong
  CHECK(parts_of(codec, {0xc3, 256, 260}) == Parts{"", kUnknown + "<|256|>", "<|260|>", ""});
  CHECK(parts_of(codec, {0x61}) == Parts{"a", ""});  // nothing is left of the texts before
}

TEST_CASE("texts that are decoded in turns do not touch each other") {
  ByteCodec codec;
  CHECK(codec.decode(0, 0xc3).empty());
  CHECK(codec.decode(1, 0xe2).empty());
  CHECK(codec.decode(0, 0xa9) == "\xc3\xa9");
  CHECK(codec.decode(1, 0x82).empty());
  CHECK(codec.decode(1, 0xac) == "\xe2\x82\xac");
}

TEST_CASE("a tokenizer in a child process is asked line by line") {
  auto codec = shell_child(R"({"num_ids": 7, "end_id": 6})",
                           R"(*encode*caf*) echo '{"ids": [1, 2]}';; *finish*) echo '{"decoded": "!"}';; )"
                           R"(*'"id":4'*) echo '{"decoded": "x y"}';; *) echo '{"error": "what"}';;)");
  CHECK(codec.num_ids() == 7);
  CHECK(codec.end_id() == 6);
  CHECK(codec.encode("caf\xc3\xa9\nau lait") == std::vector<int64_t>{1, 2});
  CHECK(parts_of(codec, {4}) == Parts{"x y", "!"});
  CHECK_THROWS_WITH(codec.decode(0, 5), Contains("--tokenizer: what"));
  CHECK_THROWS_WITH(codec.encode("\xff"), Contains("no valid UTF-8"));
  CHECK_FALSE(shell_child(R"({"num_ids": 3, "end_id": null})", "*) exit;;").end_id().has_value());
}

TEST_CASE("a tokenizer that cannot be used is refused by name") {
  CHECK_THROWS_WITH(JsonTokenizer({"sh", "-c", R"(echo '{"error": "no package"}'; exit 3)"}),
                    Contains("--tokenizer: no package"));
  CHECK_THROWS_WITH(JsonTokenizer({"sh", "-c", "exit 3"}), Contains("exit code 3"));
  CHECK_THROWS_WITH(JsonTokenizer({"sh", "-c", "echo hello"}), Contains("'hello'"));
  const TempFolder folder;
  CHECK_THROWS_WITH(make_codec(folder / "absent"), Contains("absent: no such file"));
  CHECK_THROWS_WITH(make_codec(folder / "."), Contains("tokenizer.json: no such file"));
  CHECK(make_codec("bytes")->num_ids() == 257);
}

TEST_CASE("texts are printed in order, the first as it comes") {
  std::string out;
  OrderedOutput texts({"[1] ", "[2] ", "[3] "}, [&](const std::string& part) { out += part; });
  CHECK(out == "[1] ");
  texts.add(1, "b");
  texts.add(0, "a");
  CHECK(out == "[1] a");
  texts.end(1);
  texts.add(2, "c");
  CHECK(out == "[1] a");
  texts.end(0);
  CHECK(out == "[1] a\n[2] b\n[3] c");
  texts.add(2, "d");
  texts.end(2);
  CHECK(out == "[1] a\n[2] b\n[3] cd\n");
}
