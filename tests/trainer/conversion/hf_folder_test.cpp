// Folders that are given as Hugging Face folders and are not, and the errors that say so.
#include "trainer/conversion/hf_folder.h"

#include <nlohmann/json.hpp>

#include "support/catch.h"
#include "support/temp_folder.h"
#include "trainer/conversion/hf_checkpoint.h"

namespace {

using namespace olmoe;

constexpr const char* kPointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4935\n";

template <class Step>
std::string said(const Step& step) {
  try {
    step();
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "accepted";
}

std::string said_of(const std::string& folder) {
  return said([&] { ensure_hf_folder(folder); });
}

}  // namespace

TEST_CASE("the error for a name that is not a Hugging Face folder says what it is") {
  const TempFolder folder;
  CHECK_THAT(said_of("allenai/OLMoE-1B-7B-0924"),
             Catch::StartsWith("allenai/OLMoE-1B-7B-0924/config.json: not there; there is no folder ") &&
                 Catch::Contains("`hf download allenai/OLMoE-1B-7B-0924 --local-dir DIR`"));
  for (const auto& path : {folder / "none", std::string("none"), std::string("a/b/c"), std::string("../none")})
    CHECK_THAT(said_of(path), Catch::EndsWith("there is no folder " + path));
  CHECK_THAT(said_of(folder.add("weights/model.safetensors", "")), Catch::Contains("is a file: name its folder"));
  CHECK_THAT(said_of(folder / "weights"), Catch::Contains("has no config.json (but model.safetensors)"));
  folder.add("checkpoints/step_000000003/manifest.json", "{}");
  CHECK_THAT(said_of(folder / "checkpoints/step_000000003"),
             Catch::Contains("is a checkpoint of this program") && Catch::Contains("run.folder"));
  CHECK_THAT(said_of(folder / "."), Catch::Contains("is the folder of a run of this program"));
  folder.add("models--a--b/snapshots/0123/config.json", "{}");
  CHECK_THAT(said_of(folder / "models--a--b"), Catch::Contains("name the folder below its snapshots/"));
  CHECK(said_of(folder / "models--a--b/snapshots/0123") == "accepted");
}

TEST_CASE("the error for missing weights says what the folder holds") {
  const TempFolder folder;
  folder.add("config.json", "{}");
  const auto files = [&] { return said([&] { hf_weight_files(folder / "."); }); };
  CHECK_THAT(files(), Catch::EndsWith("model.safetensors: not there. The folder holds config.json"));
  folder.add("pytorch_model.bin", "PK\x03\x04");
  CHECK_THAT(files(), Catch::Contains("config.json, pytorch_model.bin; only safetensors are read") &&
                          Catch::Contains("save_pretrained"));
  folder.add("a.safetensors", "");
  folder.add("model.safetensors.index.json",
             R"({"weight_map": {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}})");
  CHECK_THAT(files(), Catch::Contains("b.safetensors: not there (2 of 3 files that ") &&
                          Catch::Contains("the download is not complete"));
  folder.add("model.safetensors.index.json", kPointer);
  CHECK_THAT(files(), Catch::Contains("index.json: is a Git LFS pointer, not the file itself: run `git lfs pull`"));
}

TEST_CASE("files of other kinds are recognized where safetensors or JSON is read") {
  const TempFolder folder;
  const auto read_as_weights = [&](const std::string& text) -> std::string {
    const auto path = folder.add("model.safetensors", text);
    try {
      safetensors::File{path};
    } catch (const Error& error) {
      return error.what();
    }
    return "accepted";
  };
  CHECK_THAT(read_as_weights(kPointer), Catch::Contains("model.safetensors': is a Git LFS pointer"));
  CHECK_THAT(read_as_weights("<!DOCTYPE html><html></html>"), Catch::Contains("is a web page"));
  CHECK_THAT(read_as_weights("PK\x03\x04 and so on, as PyTorch writes"), Catch::Contains("is a zip archive"));
  CHECK_THAT(read_as_weights("GGUF\x03\x01\x01\x01\x01\x01"), Catch::Contains("is a GGUF file"));
  // A header of 0x280 bytes begins like a pickle, and is none.
  std::string header = "{" + std::string(0x280 - 2, ' ') + "}";
  CHECK(read_as_weights(std::string("\x80\x02\0\0\0\0\0\0", 8) + header) == "accepted");
  CHECK_THAT(said([&] { read_hf_json(folder.add("config.json", "[1]")); }), Catch::EndsWith("is not a JSON object"));
  CHECK_THAT(said([&] { read_hf_json(folder.add("config.json", "<html>")); }), Catch::Contains("is a web page"));
  CHECK_THAT(said([&] { read_hf_json(folder / "."); }), Catch::Contains("not a regular file"));
}
