#include "trainer/checkpoint/checkpoint_manifest.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/files.h"
#include "core/hash.h"

namespace olmoe {
namespace {

using nlohmann::json;
constexpr int kFormatVersion = 1;

std::string hash_of(const json& body) {
  const auto text = body.dump();
  Hasher hasher;
  hasher.update(std::as_bytes(std::span(text)));
  return hasher.hex();
}

}  // namespace

void Manifest::write(const std::string& folder) const {
  json body{{"format_version", kFormatVersion},
            {"step", step},
            {"sequences", sequences},
            {"tokens", tokens},
            {"config", config},
            {"data_fingerprint", data_fingerprint},
            {"made_by", made_by}};
  for (const auto& file : files)
    body["files"].push_back({{"name", file.name}, {"size_bytes", file.size_bytes}, {"xxh3_128", file.xxh3_128}});
  body["manifest_xxh3_128"] = hash_of(body);
  write_text_atomic(folder + "/manifest.json", body.dump(2) + "\n");
}

Manifest Manifest::read(const std::string& folder) {
  const auto path = folder + "/manifest.json";
  try {
    auto body = json::parse(read_text(path));
    const auto stated = body.at("manifest_xxh3_128").get<std::string>();
    body.erase("manifest_xxh3_128");
    if (hash_of(body) != stated) throw CheckpointError(path + ": corrupt, hash mismatch");
    const auto version = body.at("format_version").get<int>();
    if (version != kFormatVersion)
      throw CheckpointError(
          fmt::format("{}: unsupported format version {} (expected {})", path, version, kFormatVersion));
    Manifest out{body.at("step"),
                 body.at("sequences"),
                 body.at("tokens"),
                 body.at("config"),
                 body.at("data_fingerprint"),
                 body.at("made_by"),
                 {}};
    for (const auto& file : body.at("files"))
      out.files.push_back({file.at("name"), file.at("size_bytes"), file.at("xxh3_128")});
    return out;
  } catch (const CheckpointError&) {
    throw;
  } catch (const std::exception& problem) {
    throw CheckpointError(fmt::format("{}: cannot be read, or damaged ({})", path, problem.what()));
  }
}

}  // namespace olmoe
