#include "trainer/conversion/hf_tokenizer.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

json parse(const std::string& path, const std::string& text) {
  auto parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) throw ConfigError(fmt::format("--tokenizer: {}: is not a JSON object", path));
  return parsed;
}

/// A file beside tokenizer.json, or null where it is not there.
json read_beside(const fs::path& path) { return fs::exists(path) ? parse(path, read_text(path)) : json(); }

/// Tokens and ids of a tokenizer.json: its model's, and those that were added. Throws json::exception.
std::map<std::string, int64_t> read_vocabulary(const json& tokenizer) {
  std::map<std::string, int64_t> out;
  const auto& vocabulary = tokenizer.at("model").at("vocab");
  if (vocabulary.is_object()) {
    for (const auto& [token, id] : vocabulary.items()) out[token] = id.get<int64_t>();
  } else {  // Unigram: pairs of token and score in the order of their ids
    for (size_t id = 0; id < vocabulary.size(); ++id)
      out[vocabulary[id].at(0).get<std::string>()] = static_cast<int64_t>(id);
  }
  if (const auto added = tokenizer.find("added_tokens"); added != tokenizer.end())
    for (const auto& token : *added) out[token.at("content").get<std::string>()] = token.at("id").get<int64_t>();
  return out;
}

}  // namespace

HfTokenizer::HfTokenizer(const std::string& path, std::optional<int64_t> eos_id) : path_(path) {
  const bool folder = fs::is_directory(path);
  const auto file = folder ? path + "/tokenizer.json" : path;
  if (!fs::is_regular_file(file)) throw ConfigError(fmt::format("--tokenizer: {}: there is no such file", file));
  text_ = read_text(file);
  try {
    vocabulary_ = read_vocabulary(parse(file, text_));
  } catch (const json::exception& error) {
    throw ConfigError(fmt::format("--tokenizer: {}: is not a tokenizer.json: {}", file, error.what()));
  }
  if (folder) {
    config_ = read_beside(fs::path(path) / "tokenizer_config.json");
    specials_ = read_beside(fs::path(path) / "special_tokens_map.json");
  }
  if (eos_id && !token_of(eos_id)) throw ConfigError(fmt::format("--eos-id: {} is no id of {}", *eos_id, file));
  ids_.bos = special_id("bos_token");
  ids_.eos = eos_id ? eos_id : special_id("eos_token");
  ids_.pad = special_id("pad_token");
  if (!ids_.pad) ids_.pad = ids_.eos;
}

/// The id of a special token by tokenizer_config.json, else special_tokens_map.json; both write a string or an object.
std::optional<int64_t> HfTokenizer::special_id(const char* key) const {
  for (const auto* file : {&config_, &specials_}) {
    if (!file->is_object() || !file->contains(key)) continue;
    const auto& value = file->at(key);
    if (value.is_null()) continue;
    const auto& token = value.is_object() && value.contains("content") ? value.at("content") : value;
    const auto id = token.is_string() ? id_of(token.get<std::string>()) : std::nullopt;
    if (!id) throw ConfigError(fmt::format("--tokenizer: {}: {} is {}, which has no id", path_, key, value.dump()));
    return id;
  }
  return {};
}

std::optional<int64_t> HfTokenizer::id_of(const std::string& token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? std::nullopt : std::optional(found->second);
}

std::optional<std::string> HfTokenizer::token_of(std::optional<int64_t> id) const {
  const auto found = std::ranges::find_if(vocabulary_, [&](const auto& token) { return token.second == id; });
  return found == vocabulary_.end() ? std::nullopt : std::optional(found->first);
}

int64_t HfTokenizer::num_ids() const {
  int64_t ids = 0;
  for (const auto& [token, id] : vocabulary_) ids = std::max(ids, id + 1);
  return ids;
}

void HfTokenizer::write(const std::string& folder, int64_t max_positions) const {
  write_text_atomic(folder + "/tokenizer.json", text_);
  for (const char* name : {"/tokenizer_config.json", "/special_tokens_map.json"})
    if (fs::is_directory(path_) && fs::exists(path_ + name)) write_text_atomic(folder + name, read_text(path_ + name));
  if (!config_.is_null()) return;
  json config{{"tokenizer_class", "PreTrainedTokenizerFast"},
              {"model_max_length", max_positions},
              {"clean_up_tokenization_spaces", false}};
  if (const auto token = token_of(ids_.bos)) config["bos_token"] = *token;
  if (const auto token = token_of(ids_.eos)) config["eos_token"] = *token;
  if (const auto token = token_of(ids_.pad)) config["pad_token"] = *token;
  write_text_atomic(folder + "/tokenizer_config.json", config.dump(2) + "\n");
}

}  // namespace olmoe
