#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "model/config.h"
#include "trainer/conversion/hf_form.h"

namespace olmoe {

/// Ids of tokens that end or fill texts; none: unknown.
struct SpecialIds {
  std::optional<int64_t> bos, eos, pad;
};

/// A config.json, which read_hf_config() reads back, in the keys of transformers 5 and beside them those of version 4.
/// dtype: of the weights, "float32".
nlohmann::json hf_config_json(const HfForm& form, int64_t max_positions, const std::string& dtype,
                              const SpecialIds& ids);
/// A generation_config.json.
nlohmann::json hf_generation_json(const SpecialIds& ids);

/// The model that a Hugging Face config.json describes, of a class in hf_classes(). Keys that only matter in training
/// (loss weights, chunk) are those of `trained`. Throws ConfigError for what is not supported: biases of projections,
/// rope scaling, groups of experts, other activations or head widths.
ModelConfig read_hf_config(const std::string& folder, const ModelConfig& trained = {});

}  // namespace olmoe
