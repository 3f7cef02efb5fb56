#pragma once
#include <cstdint>
#include <functional>
#include <set>
#include <string_view>
#include <vector>

#include "trainer/generation/inference_model.h"
#include "trainer/generation/sampler.h"

namespace olmoe {

using TokenIds = std::vector<int64_t>;

struct GenerationOptions {
  Sampling sampling = {};
  int64_t max_tokens = 128;           ///< new tokens of a prompt
  int64_t context = 0;                ///< tokens of a prompt and what follows it, at most
  std::set<int64_t> stop_ids = {};    ///< each ends the text that it is generated in
  bool cache = true;                  ///< false: the whole text is computed again for each token
  int64_t first_prompt = 0;           ///< number of the first prompt, which the random numbers of the prompts go by
  int64_t tokens_of_forward = 2'048;  ///< of prompts that are computed together, at most
};

/// Why a text ended: a stop id, which is its last token, max_tokens, or the model's context.
enum class Ending { stop_id, max_tokens, context };
std::string_view name_of(Ending ending);

struct GeneratedText {
  TokenIds ids = {};  ///< new tokens
  Ending ending = Ending::max_tokens;
};
struct Generation {
  std::vector<GeneratedText> texts = {};  ///< of each prompt
  int64_t prompt_tokens = 0, new_tokens = 0;
  int64_t cache_bytes = 0;
  double elapsed_s = 0;
  double tokens_per_s() const { return elapsed_s > 0 ? static_cast<double>(new_tokens) / elapsed_s : 0; }
};

/// Called with each new token when it is chosen: the tokens of one prompt in order, those of several in turns.
using OnToken = std::function<void(size_t prompt, int64_t id, bool is_last)>;

/// Continues all prompts at once. What a prompt is continued with does not depend on the others, but for roundings of
/// products whose shapes they change: a text differs where two logits lie within these. Token t of prompt n is drawn
/// with number t of the random stream "prompt n" of the seed. Throws ConfigError that names the prompt for one without
/// tokens, longer than the context, or with ids outside of the vocabulary, and for options that are not valid.
Generation generate(InferenceModel& model, const std::vector<TokenIds>& prompts, const GenerationOptions& options,
                    const OnToken& on_token = {});

}  // namespace olmoe
