#pragma once
#include <string>
#include <vector>

#include "model/config.h"

namespace olmoe {

/// `model` with those keys of `trained` that only matter in training: weights of losses, initial values, chunks.
ModelConfig with_training_keys(ModelConfig model, const ModelConfig& trained);

/// The keys in which two models differ, "model.top_k: 8 -> 4". Equal are models that compute the same, however it is
/// said: keys that only matter in training, keys without effect, and patterns of the same blocks. Both must be valid.
std::vector<std::string> model_differences(const ModelConfig& a, const ModelConfig& b);

}  // namespace olmoe
