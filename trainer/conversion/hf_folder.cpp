#include "trainer/conversion/hf_folder.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string_view>
#include <vector>

#include "core/error.h"
#include "core/files/file_kinds.h"
#include "core/files/files.h"

namespace olmoe {
namespace fs = std::filesystem;

bool is_there(const fs::path& path) {
  std::error_code unknown;
  return fs::exists(path, unknown);
}

namespace {

/// True for "owner/name", the form of a model's name on the hub.
bool is_hub_name(const std::string& name) {
  const auto allowed = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || std::string_view("-_./").find(c) != std::string::npos;
  };
  return std::ranges::count(name, '/') == 1 && name.front() != '/' && name.front() != '.' && name.back() != '/' &&
         std::ranges::all_of(name, allowed);
}

/// Names in a folder, sorted, at most eight.
std::string names_in(const fs::path& folder) {
  constexpr size_t kShown = 8;
  std::error_code unknown;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder, unknown)) names.push_back(entry.path().filename().string());
  if (names.empty()) return "nothing";
  std::ranges::sort(names);
  const bool more = names.size() > kShown;
  if (more) names.resize(kShown);
  return fmt::format("{}{}", fmt::join(names, ", "), more ? ", ..." : "");
}

/// Says what a folder without config.json is, with advice.
std::string describe_other(const std::string& folder) {
  if (!is_there(folder)) {
    const auto missing = fmt::format("there is no folder {}", folder);
    if (!is_hub_name(folder)) return missing;
    return fmt::format(
        "{}. If it is a model on the Hugging Face hub, download it first (`hf download {} --local-dir "
        "DIR`) and name DIR",
        missing, folder);
  }
  if (!fs::is_directory(folder)) return fmt::format("{} is a file: name its folder", folder);
  constexpr const char* kResume = "a run resumes from its own checkpoints when it is started with the same run.folder";
  if (is_there(folder + "/manifest.json"))
    return fmt::format("{} is a checkpoint of this program, not a Hugging Face folder: {}", folder, kResume);
  if (is_there(folder + "/checkpoints") || is_there(folder + "/metrics.jsonl"))
    return fmt::format(
        "{} is the folder of a run of this program: to start from its weights name a step's folder in its "
        "checkpoints/; {}",
        folder, kResume);
  if (is_there(folder + "/snapshots"))
    return fmt::format("{} is a folder of the Hugging Face cache: name the folder below its snapshots/", folder);
  return fmt::format("{} has no config.json (but {}): it is not a Hugging Face folder of a model", folder,
                     names_in(folder));
}

}  // namespace

void ensure_hf_folder(const std::string& folder) {
  const auto config = folder + "/config.json";
  if (!is_there(config)) throw CheckpointError(fmt::format("{}: not there; {}", config, describe_other(folder)));
}

nlohmann::json read_hf_json(const std::string& path) {
  std::string text;
  try {
    text = read_text(path);
  } catch (const Error& error) {
    throw CheckpointError(fmt::format("{}: {}", path, error.what()));
  }
  auto parsed = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (parsed.is_object()) return parsed;
  const auto what = recognize_file(std::as_bytes(std::span(text)));
  throw CheckpointError(fmt::format("{}: is {}", path, what.empty() ? "not a JSON object" : what));
}

std::set<std::string> hf_weight_files(const std::string& folder) {
  const auto index = folder + "/model.safetensors.index.json", single = folder + "/model.safetensors";
  if (!is_there(index) && is_there(single)) return {single};
  if (!is_there(index)) {
    const bool pickled = is_there(folder + "/pytorch_model.bin") || is_there(folder + "/pytorch_model.bin.index.json");
    constexpr const char* kConvert =
        "only safetensors are read: in Python, transformers' AutoModelForCausalLM.from_pretrained(FOLDER)"
        ".save_pretrained(NEW) writes them";
    throw CheckpointError(fmt::format("{}: not there. The folder holds {}{}{}", single, names_in(folder),
                                      pickled ? "; " : "", pickled ? kConvert : ""));
  }
  const auto parsed = read_hf_json(index);
  const auto map = parsed.find("weight_map");
  if (map == parsed.end() || !map->is_object()) throw CheckpointError(index + ": has no weight_map");
  std::set<std::string> files;
  for (const auto& [name, file] : map->items()) {
    if (!file.is_string()) throw CheckpointError(fmt::format("{}: the file of {} is not a string", index, name));
    files.insert(folder + "/" + file.get<std::string>());
  }
  const auto missing = std::ranges::count_if(files, [](const auto& path) { return !is_there(path); });
  const auto first = std::ranges::find_if(files, [](const auto& path) { return !is_there(path); });
  if (missing > 0)
    throw CheckpointError(
        fmt::format("{}: not there ({} of {} files that {} names are missing): the download is not "
                    "complete",
                    *first, missing, files.size(), index));
  return files;
}

}  // namespace olmoe
