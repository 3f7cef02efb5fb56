#include "trainer/checkpoint/checkpoint_manifest.h"

#include <new>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/files/files.h"
#include "core/hash.h"
#include "core/integers.h"

namespace olmoe {
namespace {

using nlohmann::json;
constexpr int kFormatVersion = 2;  // 1 had one hash for each whole file

std::string hash_of_json(const json& body) {
  const auto text = body.dump();
  return hash_of(std::as_bytes(std::span(text)));
}

}  // namespace

size_t Manifest::ShardFile::num_blocks() const {
  return static_cast<size_t>(ceil_div(size_bytes - header_bytes, BlockHasher::kBlockBytes));
}

void Manifest::write(const std::string& folder) const {
  json body{{"format_version", kFormatVersion},
            {"step", step},
            {"sequences", sequences},
            {"tokens", tokens},
            {"optimizer_steps", optimizer_steps},
            {"config", config},
            {"data_fingerprint", data_fingerprint},
            {"made_by", made_by}};
  if (!idle_experts.empty()) body["idle_experts"] = idle_experts;
  for (const auto& file : files)
    body["files"].push_back({{"name", file.name},
                             {"size_bytes", file.size_bytes},
                             {"header_bytes", file.header_bytes},
                             {"header_xxh3_128", file.header_hash},
                             {"blocks_xxh3_128", file.block_hashes}});
  body["manifest_xxh3_128"] = hash_of_json(body);
  write_text_atomic(folder + "/manifest.json", body.dump(2) + "\n");
}

namespace {

Manifest::ShardFile parse_file(const json& file, int version) {
  Manifest::ShardFile out{file.at("name"), file.at("size_bytes"), 0, {}, {}};
  if (version == 1) {
    out.xxh3_128 = file.at("xxh3_128");
    return out;
  }
  out.header_bytes = file.at("header_bytes");
  out.header_hash = file.at("header_xxh3_128");
  out.block_hashes = file.at("blocks_xxh3_128");
  if (out.block_hashes.size() != out.num_blocks())
    throw Error(fmt::format("{} of {} bytes has {} hashes, not {}", out.name, out.size_bytes, out.block_hashes.size(),
                            out.num_blocks()));
  return out;
}

Manifest parse(const std::string& path, json body) {
  const auto stated = body.at("manifest_xxh3_128").get<std::string>();
  body.erase("manifest_xxh3_128");
  if (hash_of_json(body) != stated) throw Error("corrupt, hash mismatch");
  const auto version = body.at("format_version").get<int>();
  if (version < 1 || version > kFormatVersion)
    throw CheckpointError(
        fmt::format("{}: format version {}, and this program reads 1 to {}: it was written by a newer "
                    "version of the program, {}",
                    path, version, kFormatVersion, body.value(json::json_pointer("/made_by/version"), "unknown")));
  Manifest out{body.at("step"),
               body.at("sequences"),
               body.at("tokens"),
               body.value("optimizer_steps", body.at("step").get<int64_t>()),
               body.at("config"),
               body.at("data_fingerprint"),
               body.at("made_by"),
               body.value("idle_experts", std::map<std::string, int64_t>{}),
               {}};
  for (const auto& file : body.at("files")) out.files.push_back(parse_file(file, version));
  return out;
}

}  // namespace

Manifest Manifest::read(const std::string& folder) {
  const auto path = folder + "/manifest.json";
  std::string text;
  try {
    text = read_text(path);
  } catch (const FileError& error) {
    throw CheckpointError(error.what());
  }
  try {
    return parse(path, json::parse(text));
  } catch (const CheckpointError&) {
    throw;
  } catch (const std::bad_alloc&) {  // says nothing about the file
    throw;
  } catch (const std::exception& problem) {
    throw DamagedCheckpoint(fmt::format("{}: damaged: {}", path, problem.what()));
  }
}

}  // namespace olmoe
