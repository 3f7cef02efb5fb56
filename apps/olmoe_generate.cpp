// olmoe-generate CHECKPOINT|HF_FOLDER [--prompt TEXT ...] [--ids 1,2,3 ...] [--interactive]
#include <malloc.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "apps/command_line.h"
#include "core/version.h"
#include "trainer/conversion/saved_model.h"
#include "trainer/generation/json_tokenizer.h"
#include "trainer/generation/ordered_output.h"
#include "trainer/generation/saved_generation.h"

namespace {

using namespace olmoe;

struct Arguments {
  std::string model, tokenizer, dtype = "float32";
  std::vector<std::string> prompts, ids, stops;
  GenerationOptions generation;
  bool no_cache = false, interactive = false, json = false, ignore_unknown = false;
};

/// "1,2,3" as ids. Throws ConfigError naming the option.
TokenIds parse_ids(const std::string& text, const char* option) {
  TokenIds out;
  const char *at = text.data(), *const end = at + text.size();
  while (true) {
    int64_t id = 0;
    const auto [next, error] = std::from_chars(at, end, id);
    if (error != std::errc() || (next != end && *next != ','))
      throw ConfigError(fmt::format("{}: '{}' is not ids between commas, such as 1,2,3", option, text));
    out.push_back(id);
    if (next == end) return out;
    at = next + 1;
  }
}

at::ScalarType dtype_of(const std::string& name) {
  if (name == "bfloat16") return at::kBFloat16;
  return name == "float64" ? at::kDouble : at::kFloat;
}

/// A loaded model and what goes from text to ids and back; without a tokenizer ids alone are taken and printed.
class Session {
 public:
  explicit Session(const Arguments& arguments)
      : arguments_(arguments),
        saved_(open_model(arguments.model, arguments.ignore_unknown ? UnknownKeys::ignored : UnknownKeys::refused)),
        codec_(codec_of(arguments, saved_)),
        options_(arguments.generation) {
    if (codec_) check_codec(*codec_, saved_.config.model);
    if (!codec_ && (!arguments.prompts.empty() || arguments.interactive))
      throw ConfigError("--tokenizer: a text as prompt needs `bytes`, or a tokenizer.json or a folder with one");
    options_.cache = !arguments.no_cache;
    options_.context = saved_.config.data.sequence_length;
    options_.stop_ids = default_stop_ids(saved_, codec_.get());
    if (!arguments.stops.empty()) options_.stop_ids.clear();
    for (const auto& stop : arguments.stops)
      if (stop != "none") options_.stop_ids.merge(as_set(parse_ids(stop, "--stop")));
    if (arguments.stops.empty())  // an id that the model does not have ends no text
      std::erase_if(options_.stop_ids, [&](int64_t id) { return id < 0 || id >= saved_.config.model.vocab_size; });
    model_ = load_model(saved_, dtype_of(arguments.dtype));
  }

  void continue_all() {
    std::vector<TokenIds> prompts;
    std::vector<std::string> texts;
    for (const auto& text : arguments_.prompts) {
      prompts.push_back(codec_->encode(text));
      texts.push_back(text);
    }
    for (const auto& ids : arguments_.ids) {
      prompts.push_back(parse_ids(ids, "--ids"));
      texts.push_back(codec_ ? text_of(prompts.back()) : "");
    }
    run(prompts, texts);
  }

  /// Each line of the input is a prompt of its own.
  void talk() {
    const bool asks = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
    const auto ask = [&] {
      if (asks) std::cout << "> " << std::flush;
    };
    std::string line;
    for (ask(); std::getline(std::cin, line); ask()) {
      if (line.empty()) continue;
      try {
        run({codec_->encode(line)}, {line});
      } catch (const ConfigError& error) {  // of this prompt
        std::fprintf(stderr, "%s\n", error.what());
      }
      ++options_.first_prompt;
    }
  }

 private:
  static std::set<int64_t> as_set(const TokenIds& ids) { return {ids.begin(), ids.end()}; }

  static std::unique_ptr<TextCodec> codec_of(const Arguments& arguments, const SavedModel& saved) {
    if (!arguments.tokenizer.empty()) return make_codec(arguments.tokenizer);
    const bool has_own = !saved.manifest && std::filesystem::exists(saved.folder + "/tokenizer.json");
    const bool has_text = !arguments.prompts.empty() || arguments.interactive;
    return has_own && has_text ? make_codec(saved.folder) : nullptr;
  }

  std::string text_of(const TokenIds& ids) {
    std::string out;
    for (const int64_t id : ids) out += codec_->decode(0, id);
    return out + codec_->finish(0);
  }

  /// Prints the prompts with what follows them; several are numbered.
  void run(const std::vector<TokenIds>& prompts, std::vector<std::string> texts) {
    if (arguments_.json) {
      const auto made = generate(*model_, prompts, options_);
      fmt::print("{}\n", generation_json(prompts, made, codec_.get(), options_.stop_ids));
      std::fflush(stdout);
      return;
    }
    if (texts.size() > 1)
      for (size_t i = 0; i < texts.size(); ++i) texts[i] = fmt::format("[{}] {}", i + 1, texts[i]);
    std::vector<bool> begun(prompts.size()), ended(prompts.size());
    OrderedOutput output(texts, [](const std::string& part) {
      std::fputs(part.c_str(), stdout);
      std::fflush(stdout);
    });
    const auto end = [&](size_t prompt) {
      if (codec_) output.add(prompt, codec_->finish(prompt));
      output.end(prompt);
      ended[prompt] = true;
    };
    const auto made = generate(*model_, prompts, options_, [&](size_t prompt, int64_t id, bool is_last) {
      if (!codec_)
        output.add(prompt, fmt::format("{}{}", begun[prompt] ? " " : "", id));
      else if (!options_.stop_ids.contains(id))
        output.add(prompt, codec_->decode(prompt, id));
      begun[prompt] = true;
      if (is_last) end(prompt);
    });
    for (size_t i = 0; i < prompts.size(); ++i)
      if (!ended[i]) end(i);  // a prompt that fills the context
    std::fprintf(stderr, "%s", describe(made).c_str());
  }

  static std::string describe(const Generation& made) {
    std::string out;
    for (size_t i = 0; i < made.texts.size(); ++i)
      if (made.texts[i].ending == Ending::context)
        out += fmt::format("prompt {}: ended at the model's context\n", i + 1);
    return out + fmt::format("{} tokens after {}, {:.1f} a second\n", made.new_tokens, made.prompt_tokens,
                             made.tokens_per_s());
  }

  const Arguments& arguments_;
  const SavedModel saved_;
  const std::unique_ptr<TextCodec> codec_;
  GenerationOptions options_;
  std::unique_ptr<InferenceModel> model_;
};

void add_options(CLI::App& app, Arguments& arguments) {
  auto& [sampling, max_tokens, context, stop_ids, cache, first_prompt, tokens_of_forward] = arguments.generation;
  app.add_option("model", arguments.model, "checkpoint, run folder, or Hugging Face folder")->required();
  app.add_option("--prompt", arguments.prompts, "texts to continue");
  app.add_option("--ids", arguments.ids, "token ids to continue, as 1,2,3");
  app.add_option("--tokenizer", arguments.tokenizer,
                 "`bytes`, a tokenizer.json or a folder with one; that of a Hugging Face folder if not given");
  app.add_option("--max-tokens", max_tokens, "new tokens of each prompt")->capture_default_str();
  app.add_option("--temperature", sampling.temperature, "0: the most probable token")->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "draw among the k most probable tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "draw among the fewest tokens of so much probability")
      ->capture_default_str();
  app.add_option("--seed", sampling.seed, "of the draws")->capture_default_str();
  app.add_option("--stop", arguments.stops,
                 "ids that end a text, or none; if not given those of the model and the tokenizer");
  app.add_option("--dtype", arguments.dtype, "of weights and computing: float32, bfloat16 or float64")
      ->check(CLI::IsMember({"float32", "bfloat16", "float64"}))
      ->capture_default_str();
  app.add_flag("--no-cache", arguments.no_cache, "compute the whole text again for each token, for comparison");
  app.add_flag("--interactive", arguments.interactive, "each line of the input is a prompt");
  app.add_flag("--json", arguments.json, "print one JSON object instead of text");
  app.add_flag("--ignore-unknown", arguments.ignore_unknown, kIgnoreUnknownHelp);
  app.set_version_flag("--version", fmt::format("olmoe-generate {} ({})", kVersion, kGitCommit));
}

void run(const Arguments& arguments) {
  const bool has_prompts = !arguments.prompts.empty() || !arguments.ids.empty();
  if (has_prompts == arguments.interactive)
    throw ConfigError("what to continue is --prompt and --ids, or --interactive");
  Session session(arguments);
  arguments.interactive ? session.talk() : session.continue_all();
}

}  // namespace

int main(int argc, char* argv[]) {
  // Activations are freed and allocated at every token: back to the kernel they would cost page faults each time.
  ::mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc takes
  ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
  Arguments arguments;
  CLI::App app{"Continues texts with a trained model, on a CPU."};
  add_options(app, arguments);
  if (const auto code = parse_command_line(app, argc, argv)) return *code;
  try {
    run(arguments);
    return static_cast<int>(ExitCode::ok);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(error.code());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return static_cast<int>(ExitCode::internal);
  }
}
