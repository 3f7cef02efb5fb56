#pragma once
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <set>
#include <string>

namespace olmoe {

/// Whether a path exists. One that the system does not let us look at does not.
bool is_there(const std::filesystem::path& path);

/// Throws CheckpointError unless `folder` has a config.json. The message says what it is instead (a name on the Hugging
/// Face hub, a file, a checkpoint or run of this program, an empty folder) and what to do.
void ensure_hf_folder(const std::string& folder);

/// The safetensors files of a Hugging Face folder: model.safetensors, or those of model.safetensors.index.json. Throws
/// CheckpointError where some are missing, and says what is there instead.
std::set<std::string> hf_weight_files(const std::string& folder);

/// A JSON object. Throws CheckpointError naming the file.
nlohmann::json read_hf_json(const std::string& path);

}  // namespace olmoe
