#include "trainer/generation/generator.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "core/error.h"
#include "core/random.h"
#include "core/stopwatch.h"
#include "core/text.h"

namespace olmoe {
namespace {

constexpr int64_t kShortestCache = 64;  // tokens

void check(const InferenceModel& model, const std::vector<TokenIds>& prompts, const GenerationOptions& options) {
  auto problems = problems_of(options.sampling);
  const int64_t vocabulary = model.config().vocab_size;
  const auto outside = [&](int64_t id) { return id < 0 || id >= vocabulary; };
  if (options.max_tokens < 1) problems.push_back(fmt::format("--max-tokens: {} is below 1", options.max_tokens));
  for (const int64_t id : options.stop_ids)
    if (outside(id))
      problems.push_back(fmt::format("--stop: {} is not an id of the model, whose vocabulary has {}", id, vocabulary));
  if (prompts.empty()) problems.push_back("there is no prompt");
  for (size_t i = 0; i < prompts.size(); ++i) {
    const auto& ids = prompts[i];
    const auto name = fmt::format("prompt {}", options.first_prompt + static_cast<int64_t>(i) + 1);
    if (ids.empty()) problems.push_back(name + " has no tokens");
    if (std::ssize(ids) > options.context)
      problems.push_back(fmt::format("{} has {} tokens, more than the model's context of {}", name,
                                     grouped(std::ssize(ids)), grouped(options.context)));
    if (const auto found = std::ranges::find_if(ids, outside); found != ids.end())
      problems.push_back(
          fmt::format("{} has the id {}, which the model's vocabulary of {} does not have", name, *found, vocabulary));
  }
  if (!problems.empty()) throw ConfigError(fmt::format("{}", fmt::join(problems, "\n")));
}

class Run {
 public:
  Run(InferenceModel& model, const std::vector<TokenIds>& prompts, const GenerationOptions& options,
      const OnToken& on_token)
      : model_(model), options_(options), on_token_(on_token) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto number = options.first_prompt + static_cast<int64_t>(i);
      texts_.push_back({prompts[i], prompts[i].size(),
                        RandomStream(options.sampling.seed, fmt::format("prompt {}", number)), std::nullopt});
      end_if_full(texts_.back());
    }
    if (options.cache)
      cache_.emplace(model.config(), static_cast<int64_t>(prompts.size()), cache_positions(prompts), model.dtype());
  }

  Generation to_the_end() {
    const Stopwatch watch;
    while (std::ranges::any_of(texts_, [](const Text& text) { return !text.ending; })) cache_ ? step() : recompute();
    Generation out{.elapsed_s = watch.elapsed_s()};
    if (cache_) out.cache_bytes = cache_->size_bytes();
    for (const auto& text : texts_) {
      const auto first = text.ids.begin() + static_cast<std::ptrdiff_t>(text.prompt_tokens);
      out.texts.push_back({TokenIds(first, text.ids.end()), *text.ending});
      out.prompt_tokens += static_cast<int64_t>(text.prompt_tokens);
      out.new_tokens += std::ssize(out.texts.back().ids);
    }
    return out;
  }

 private:
  struct Text {
    TokenIds ids;  ///< the prompt, and what was generated
    size_t prompt_tokens;
    RandomStream random;
    std::optional<Ending> ending;
  };

  /// Few different lengths, each of which has a table of rotary angles.
  int64_t cache_positions(const std::vector<TokenIds>& prompts) const {
    const auto longest = std::ranges::max(prompts, {}, &TokenIds::size).size();
    const auto wanted = static_cast<int64_t>(longest) + std::min(options_.max_tokens, options_.context);
    return std::min(options_.context,
                    static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(kShortestCache, wanted)))));
  }

  void end_if_full(Text& text) const {
    if (std::ssize(text.ids) >= options_.context) text.ending = Ending::context;
  }

  /// One forward over tokens that are not in the cache: one token of texts that are being generated, and of prompts as
  /// many as the forward has room for.
  void step() {
    std::vector<NewTokens> tokens;
    std::vector<size_t> numbers;
    int64_t room = std::max(options_.tokens_of_forward, std::ssize(texts_));
    for (size_t i = 0; i < texts_.size() && room > 0; ++i) {
      if (texts_[i].ending) continue;
      const auto sequence = static_cast<int64_t>(i);
      const auto waiting =
          std::span<const int64_t>(texts_[i].ids).subspan(static_cast<size_t>(cache_->length(sequence)));
      const auto now = waiting.first(static_cast<size_t>(std::min(room, std::ssize(waiting))));
      tokens.push_back({sequence, now});
      numbers.push_back(i);
      room -= std::ssize(now);
    }
    const auto logits_nV = model_.extend(*cache_, tokens);
    for (size_t n = 0; n < numbers.size(); ++n) {
      const auto i = numbers[n];
      if (cache_->length(static_cast<int64_t>(i)) == std::ssize(texts_[i].ids))
        add_token(i, logits_nV[static_cast<int64_t>(n)]);
    }
  }

  void recompute() {
    for (size_t i = 0; i < texts_.size(); ++i)
      if (!texts_[i].ending) add_token(i, model_.last_logits(texts_[i].ids, options_.context));
  }

  void add_token(size_t i, const at::Tensor& logits_V) {
    auto& text = texts_[i];
    const auto made = text.ids.size() - text.prompt_tokens;
    const auto id = next_token(logits_V, options_.sampling, text.random.uniform(made));
    text.ids.push_back(id);
    if (options_.stop_ids.contains(id)) {
      text.ending = Ending::stop_id;
    } else if (static_cast<int64_t>(made) + 1 >= options_.max_tokens) {
      text.ending = Ending::max_tokens;
    } else {
      end_if_full(text);
    }
    if (on_token_) on_token_(i, id, text.ending.has_value());
  }

  InferenceModel& model_;
  const GenerationOptions& options_;
  const OnToken& on_token_;
  std::vector<Text> texts_;
  std::optional<KvCache> cache_;
};

}  // namespace

std::string_view name_of(Ending ending) {
  switch (ending) {
    case Ending::stop_id:
      return "stop_id";
    case Ending::max_tokens:
      return "max_tokens";
    case Ending::context:
      return "context";
  }
  return "";
}

Generation generate(InferenceModel& model, const std::vector<TokenIds>& prompts, const GenerationOptions& options,
                    const OnToken& on_token) {
  check(model, prompts, options);
  return Run(model, prompts, options, on_token).to_the_end();
}

}  // namespace olmoe
