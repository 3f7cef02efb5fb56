#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "core/reader/saved_config.h"
#include "trainer/conversion/progress.h"
#include "trainer/conversion/upcycling.h"

/// From one folder to another that must not exist: it is there complete, or not at all. All throw ConfigError for a
/// target that exists and CheckpointError for a source that cannot be read or a disk that is full; their memory is that
/// of some pieces of a parameter. A source is what open_model() opens, with `unknown`.
namespace olmoe {

struct ExportOptions {
  safetensors::Dtype dtype = safetensors::Dtype::f32;  ///< f32, bf16 or f16
  int64_t max_shard_bytes = 5'000'000'000;
  std::string tokenizer = {};  ///< file or folder; empty: none
  std::optional<int64_t> eos_id = {};
};

/// A Hugging Face folder. Throws ConfigError, naming what it is, for what no class of transformers holds.
void export_model(const std::string& source, const std::string& folder, const ExportOptions& options,
                  const Progress& progress, UnknownKeys unknown = UnknownKeys::refused);
/// A checkpoint of weights alone from a Hugging Face folder.
void import_model(const std::string& hf_folder, const std::string& checkpoint, const Progress& progress);
/// A checkpoint of the mean of the sources' weights, with the first one's config.
void average_models(const std::string& checkpoint, const std::vector<std::string>& sources, const Progress& progress,
                    UnknownKeys unknown = UnknownKeys::refused);
/// A checkpoint of a model with experts, made from a dense one.
void upcycle_model(const std::string& source, const std::string& checkpoint, const Upcycling& options,
                   const Progress& progress, UnknownKeys unknown = UnknownKeys::refused);

}  // namespace olmoe
