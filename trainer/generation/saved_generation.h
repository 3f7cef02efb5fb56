// What a saved model says of generating with it.
#pragma once
#include <memory>
#include <set>

#include "trainer/conversion/saved_model.h"
#include "trainer/generation/generator.h"
#include "trainer/generation/text_codec.h"

namespace olmoe {

/// Reads all weights and buffers. Throws as the constructor of InferenceModel does.
std::unique_ptr<InferenceModel> load_model(const SavedModel& saved, at::ScalarType dtype);

/// Ids that end a text unless others are named: eos_token_id of a Hugging Face folder's generation_config.json, else of
/// its config.json; data.eos_id of a checkpoint's config; and the end of a document of the codec, which may be null.
std::set<int64_t> default_stop_ids(const SavedModel& saved, const TextCodec* codec);

/// Throws ConfigError where the codec has ids that the model's vocabulary does not have.
void check_codec(const TextCodec& codec, const ModelConfig& config);

/// What was generated, as one JSON object: of each prompt its ids, the new ids, their text where there is a codec, and
/// why it ended; then counts and seconds.
std::string generation_json(const std::vector<TokenIds>& prompts, const Generation& generation, TextCodec* codec,
                            const std::set<int64_t>& stop_ids);

}  // namespace olmoe
