#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "model/config.h"
#include "model/init.h"

namespace olmoe {

/// A model as a class of Hugging Face's transformers computes it.
struct HfForm {
  std::string architecture;  ///< OlmoeForCausalLM or LlamaForCausalLM
  ModelConfig config;        ///< the dense twin with QK-norm is a model with one expert
  ParamSource weights;       ///< by the names of `config`
};

/// The class that computes what the model computes: OlmoeForCausalLM with experts; the dense twin is that with one
/// expert, or without QK-norm LlamaForCausalLM. Throws ConfigError, naming every key, for what no class has.
HfForm hf_form(const ModelConfig& config, const ParamSource& weights);

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

}  // namespace olmoe
