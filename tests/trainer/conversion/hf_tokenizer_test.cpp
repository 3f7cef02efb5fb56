// Tokenizers of exported folders: which ids they give, and what is copied or made.
#include "trainer/conversion/hf_tokenizer.h"

#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"
#include "support/catch.h"
#include "support/temp_folder.h"

namespace {

using namespace olmoe;
using nlohmann::json;

const std::string kTokenizer =
    R"({"added_tokens": [{"id": 4, "content": "<end>"}, {"id": 5, "content": "<fill>"}],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "d": 3}}})";

std::string said(const std::string& path, std::optional<int64_t> eos_id = {}) {
  try {
    HfTokenizer(path, eos_id);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "accepted";
}

json written_config(const HfTokenizer& tokenizer, const std::string& folder) {
  std::filesystem::create_directories(folder);
  tokenizer.write(folder, 128);
  CHECK(read_text(folder + "/tokenizer.json") == kTokenizer);
  return json::parse(read_text(folder + "/tokenizer_config.json"));
}

}  // namespace

TEST_CASE("where only tokenizer.json is given, a PreTrainedTokenizerFast is written with the tokens of --eos-id") {
  const TempFolder folder;
  const HfTokenizer tokenizer(folder.add("mine.json", kTokenizer), 4);
  CHECK((tokenizer.ids().eos == 4 && tokenizer.ids().pad == 4 && !tokenizer.ids().bos));
  CHECK(tokenizer.num_ids() == 6);
  CHECK(written_config(tokenizer, folder / "out") == json{{"tokenizer_class", "PreTrainedTokenizerFast"},
                                                          {"model_max_length", 128},
                                                          {"clean_up_tokenization_spaces", false},
                                                          {"eos_token", "<end>"},
                                                          {"pad_token", "<end>"}});
  CHECK_FALSE(HfTokenizer(folder / "mine.json", {}).ids().eos);
}

TEST_CASE("a folder's files are copied as they are and name the special tokens") {
  const TempFolder folder;
  folder.add("t/tokenizer.json", kTokenizer);
  folder.add("t/special_tokens_map.json", R"({"pad_token": {"content": "<fill>", "lstrip": false}})");
  const std::string config = R"({"tokenizer_class":  "GPTNeoXTokenizer", "eos_token": "<end>", "pad_token": null})";
  folder.add("t/tokenizer_config.json", config);
  const HfTokenizer tokenizer(folder / "t", {});
  CHECK((tokenizer.ids().eos == 4 && tokenizer.ids().pad == 5));
  written_config(tokenizer, folder / "out");
  for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"})
    CHECK(read_text((folder / "out") + name) == read_text((folder / "t") + name));
  CHECK(HfTokenizer(folder / "t", 2).ids().eos == 2);
}

TEST_CASE("what is no tokenizer is refused by name") {
  const TempFolder folder;
  CHECK(said(folder.add("mine.json", kTokenizer)) == "accepted");
  CHECK_THAT(said(folder / "mine.json", 6), Catch::Contains("--eos-id: 6 is no id of"));
  CHECK_THAT(said(folder / "none"), Catch::Contains("none: there is no such file"));
  CHECK_THAT(said(folder / "."), Catch::Contains("tokenizer.json: there is no such file"));
  CHECK_THAT(said(folder.add("bad.json", "{}")), Catch::Contains("is not a tokenizer.json"));
  CHECK_THAT(said(folder.add("worse.json", "[")), Catch::Contains("is not a JSON object"));
  folder.add("t/tokenizer.json", kTokenizer);
  folder.add("t/tokenizer_config.json", R"({"eos_token": "<absent>"})");
  CHECK_THAT(said(folder / "t"), Catch::Contains("eos_token is \"<absent>\", which has no id"));
}
