#include "trainer/generation/saved_generation.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "trainer/conversion/hf_folder.h"

namespace olmoe {
namespace {

using nlohmann::json;

/// An id, a list of ids, or null.
std::set<int64_t> ids_of(const json& value, const std::string& file) {
  std::set<int64_t> out;
  if (value.is_null()) return out;
  for (const auto& id : value.is_array() ? value : json::array({value})) {
    if (!id.is_number_integer())
      throw CheckpointError(fmt::format("{}: eos_token_id: {} is not an id", file, id.dump()));
    out.insert(id.get<int64_t>());
  }
  return out;
}

std::set<int64_t> hf_stop_ids(const std::string& folder) {
  for (const char* const name : {"generation_config.json", "config.json"}) {
    const auto file = folder + "/" + name;
    if (!is_there(file)) continue;
    const auto config = read_hf_json(file);
    if (const auto found = config.find("eos_token_id"); found != config.end()) return ids_of(*found, file);
  }
  return {};
}

}  // namespace

std::unique_ptr<InferenceModel> load_model(const SavedModel& saved, at::ScalarType dtype) {
  BufferValues buffers;
  for (const auto& buffer : saved.buffers()) buffers.names.insert(buffer.name);
  buffers.source = [&saved](const std::string& name, int64_t begin, at::Tensor out) {
    saved.read("buffer", name, begin, std::move(out));
  };
  return std::make_unique<InferenceModel>(saved.config.model, dtype, saved.weights(), buffers);
}

std::set<int64_t> default_stop_ids(const SavedModel& saved, const TextCodec* codec) {
  std::set<int64_t> out;
  if (!saved.manifest) out = hf_stop_ids(saved.folder);
  if (const auto& id = saved.config.data.eos_id) out.insert(*id);
  if (codec != nullptr && codec->end_id()) out.insert(*codec->end_id());
  return out;
}

void check_codec(const TextCodec& codec, const ModelConfig& config) {
  if (codec.num_ids() > config.vocab_size)
    throw ConfigError(
        fmt::format("--tokenizer: it has ids up to {}, and the model a vocabulary of {}: it is another "
                    "model's",
                    codec.num_ids() - 1, config.vocab_size));
}

std::string generation_json(const std::vector<TokenIds>& prompts, const Generation& generation, TextCodec* codec,
                            const std::set<int64_t>& stop_ids) {
  auto texts = json::array();
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto& [ids, ending] = generation.texts.at(i);
    json text{{"prompt_ids", prompts[i]}, {"ids", ids}, {"ending", name_of(ending)}};
    if (codec != nullptr) {
      std::string decoded;
      for (const int64_t id : ids)
        if (!stop_ids.contains(id)) decoded += codec->decode(i, id);
      text["text"] = decoded + codec->finish(i);
    }
    texts.push_back(std::move(text));
  }
  return json{{"texts", texts},
              {"prompt_tokens", generation.prompt_tokens},
              {"new_tokens", generation.new_tokens},
              {"cache_bytes", generation.cache_bytes},
              {"elapsed_s", generation.elapsed_s},
              {"tokens_per_s", generation.tokens_per_s()}}
      .dump();
}

}  // namespace olmoe
