// Texts with and without a cache, alone and among others, and against the argmax of whole forwards.
#include "trainer/generation/generator.h"

#include <filesystem>

#include "core/error.h"
#include "support/attention_variants.h"
#include "support/block_variants.h"
#include "support/catch.h"
#include "support/model_fixtures.h"
#include "support/routing_variants.h"
#include "trainer/generation/saved_generation.h"
#include "trainer/weights.h"

using namespace olmoe;
using Catch::Contains;
using test::tiny_model;

namespace {

using Change = std::function<void(ModelConfig&)>;

/// Every variant of the model that can generate, by name.
std::vector<std::pair<std::string, Change>> variants() {
  std::vector<std::pair<std::string, Change>> out{
      {"experts", [](ModelConfig&) {}},
      {"a key head for each query head", [](ModelConfig& m) { m.num_kv_heads = 4; }},
      {"one key head", [](ModelConfig& m) { m.num_kv_heads = 1; }},
      {"dense", [](ModelConfig& m) { m.ffn = Ffn::dense; }},
      {"windows, no positions in some blocks, gate, shared experts", [](ModelConfig& m) {
         m.attention_windows = {4, 0};
         m.position_embeddings = {PositionEmbedding::rotary, PositionEmbedding::none};
         m.attention_gate = true;
         m.num_shared_experts = 2, m.shared_expert_gate = true;
       }}};
  for (const auto order : {CapacityOrder::position, CapacityOrder::score})
    out.emplace_back("a capacity that would drop",
                     [order](ModelConfig& m) { m.capacity_factor = 0.5, m.capacity_order = order; });
  for (const auto& variant : test::attention_variants())
    if (!variant.documents) out.emplace_back(variant.name, variant.set);
  for (const auto& variant : test::router_variants()) out.emplace_back(variant.name, variant.set);
  for (const auto& variant : test::expert_variants()) out.emplace_back(variant.name, variant.set);
  for (const auto& variant : test::block_variants()) out.emplace_back(variant.name, variant.change);
  std::erase_if(out, [](const auto& variant) {
    auto model = tiny_model();
    variant.second(model);
    return model.experts_choose();
  });
  return out;
}

std::unique_ptr<InferenceModel> make_model(const Change& change = {}, at::ScalarType dtype = at::kDouble) {
  auto config = tiny_model();
  if (change) change(config);
  return std::make_unique<InferenceModel>(config, dtype, random_init(config, 3));
}

/// `count` ids of a sequence that does not repeat soon.
TokenIds ids_of(int64_t count, int64_t salt) {
  TokenIds out;
  for (int64_t i = 0; i < count; ++i) out.push_back((7 * i + i * i + salt) % 50);
  return out;
}

GenerationOptions options_of(int64_t max_tokens) { return {.max_tokens = max_tokens, .context = 200}; }

std::vector<TokenIds> ids_of(const Generation& generation) {
  std::vector<TokenIds> out;
  for (const auto& text : generation.texts) out.push_back(text.ids);
  return out;
}

double error_of(const at::Tensor& ours, const at::Tensor& reference) {
  return ((ours - reference).abs().max() / reference.abs().max()).item<double>();
}

/// The argmax of the last logits of a forward over all tokens, by the trainer's runner, token by token.
TokenIds argmax_of_forwards(StageRunner& runner, TokenIds ids, int64_t count) {
  TokenIds out;
  auto& head = dynamic_cast<Head&>(runner.last_stage());
  for (int64_t i = 0; i < count; ++i) {
    const auto batch = test::batch_of(at::tensor(ids, at::kLong).unsqueeze(0));
    const auto logits_NV = head.logits(runner.run_to_last(batch));
    out.push_back(logits_NV[logits_NV.size(0) - 1].argmax().item<int64_t>());
    ids.push_back(out.back());
  }
  return out;
}

}  // namespace

TEST_CASE("logits from a cache equal those of a whole forward, in every variant and division") {
  for (const auto& [name, change] : variants()) {
    INFO(name);
    const auto model = make_model(change);
    const auto a = ids_of(21, 1), b = ids_of(9, 5);
    const auto whole_a = model->logits(a), whole_b = model->logits(b);
    KvCache cache(model->config(), 3, 24, at::kDouble);
    const auto part = [](const TokenIds& ids, size_t begin, size_t end) {
      return std::span(ids).subspan(begin, end - begin);
    };
    // Sequence 1 is not used; the others are extended together, alone, by prompts and by single tokens.
    const std::vector<NewTokens> first{{2, part(a, 0, 12)}, {0, part(b, 0, 1)}}, second{{0, part(b, 1, 9)}},
        third{{2, part(a, 12, 13)}}, last{{2, part(a, 13, 21)}};
    const auto of_first = model->extend(cache, first);
    CHECK(error_of(of_first[0], whole_a[11]) < 1e-10);
    CHECK(error_of(of_first[1], whole_b[0]) < 1e-10);
    CHECK(error_of(model->extend(cache, second)[0], whole_b[8]) < 1e-10);
    CHECK(error_of(model->extend(cache, third)[0], whole_a[12]) < 1e-10);
    CHECK(error_of(model->extend(cache, last)[0], whole_a[20]) < 1e-10);
    CHECK(error_of(model->last_logits(a, 24), whole_a[20]) < 1e-10);
    CHECK(cache.length(0) == 9);
    CHECK(cache.length(1) == 0);
    CHECK(cache.length(2) == 21);
  }
}

TEST_CASE("greedy texts are the same with and without a cache, and alone or among others") {
  for (const auto& [name, change] : variants()) {
    INFO(name);
    const auto model = make_model(change);
    const std::vector<TokenIds> prompts{ids_of(5, 2), ids_of(1, 9), ids_of(17, 4)};
    const auto together = generate(*model, prompts, options_of(12));
    auto again = options_of(12);
    again.cache = false;
    CHECK(ids_of(generate(*model, prompts, again)) == ids_of(together));
    for (size_t i = 0; i < prompts.size(); ++i) {
      const auto alone = generate(*model, {prompts[i]}, options_of(12));
      CHECK(alone.texts.front().ids == together.texts[i].ids);
    }
    again = options_of(12);
    again.tokens_of_forward = 3;  // prompts in parts, beside others that are being continued
    CHECK(ids_of(generate(*model, prompts, again)) == ids_of(together));
  }
}

TEST_CASE("greedy texts equal the argmax of the trainer's whole forwards") {
  for (const bool dense : {false, true}) {
    auto config = tiny_model();
    if (dense) config.ffn = Ffn::dense;
    InferenceModel model(config, at::kDouble, random_init(config, 3));
    const auto world = make_single_communicator();
    DeviceMesh mesh(*world, {});
    StageRunner runner(make_stages(config, mesh), mesh, test::runner_options(at::kDouble));
    fill_weights(runner.units(), random_init(config, 3));
    const auto prompt = ids_of(6, 8);
    CHECK(generate(model, {prompt}, options_of(20)).texts.front().ids == argmax_of_forwards(runner, prompt, 20));
  }
}

TEST_CASE("golden folders are continued greedily as by the argmax of the trainer's whole forwards") {
  const std::string golden = OLMOE_SOURCE_DIR "/tests/golden";
  size_t folders = 0;
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    if (!entry.is_directory()) continue;
    INFO(entry.path().string());
    const auto saved = open_model(entry.path());
    const auto& config = saved.config.model;
    const auto model = load_model(saved, at::kDouble);
    const auto world = make_single_communicator();
    DeviceMesh mesh(*world, {});
    StageRunner runner(make_stages(config, mesh), mesh, test::runner_options(at::kDouble));
    fill_weights(runner.units(), saved.weights());
    fill_buffers(runner.buffers(), entry.path());
    const TokenIds prompt{3, 1, 4, 1, 5};
    auto options = options_of(16);
    const auto expected = argmax_of_forwards(runner, prompt, 16);
    CHECK(generate(*model, {prompt}, options).texts.front().ids == expected);
    options.cache = false;
    CHECK(generate(*model, {prompt}, options).texts.front().ids == expected);
    ++folders;
  }
  CHECK(folders >= 12);
}

TEST_CASE("samples go by seed and number of the prompt, not by its neighbours") {
  const auto model = make_model();
  auto options = options_of(30);
  options.sampling = {.temperature = 1, .top_k = 20, .top_p = 0.95, .seed = 7};
  const std::vector<TokenIds> prompts{ids_of(4, 1), ids_of(4, 1), ids_of(9, 2)};
  const auto together = ids_of(generate(*model, prompts, options));
  CHECK(ids_of(generate(*model, prompts, options)) == together);
  CHECK(together[0] != together[1]);  // equal prompts, each with numbers of its own
  options.first_prompt = 2;
  CHECK(generate(*model, {prompts[2]}, options).texts.front().ids == together[2]);
  options.first_prompt = 0;
  options.sampling.seed = 8;
  CHECK(ids_of(generate(*model, prompts, options)) != together);
}

TEST_CASE("a text ends at a stop id, at the most tokens, and at the model's context") {
  const auto model = make_model();
  auto options = options_of(10);
  const auto prompt = ids_of(5, 2);
  const auto whole = generate(*model, {prompt}, options);
  const auto& ids = whole.texts.front().ids;
  CHECK(ids.size() == 10);
  CHECK(whole.texts.front().ending == Ending::max_tokens);
  CHECK(whole.prompt_tokens == 5);
  CHECK(whole.new_tokens == 10);

  options.stop_ids = {ids[3]};
  const auto first = static_cast<size_t>(std::find(ids.begin(), ids.end(), ids[3]) - ids.begin());
  const auto stopped = generate(*model, {prompt}, options).texts.front();
  CHECK(stopped.ids == TokenIds(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(first) + 1));
  CHECK(stopped.ending == Ending::stop_id);

  options.stop_ids = {};
  for (const bool cache : {true, false}) {
    options.cache = cache;
    options.context = 8;
    const auto full = generate(*model, {prompt}, options).texts.front();
    CHECK(full.ids == TokenIds(ids.begin(), ids.begin() + 3));
    CHECK(full.ending == Ending::context);
    options.context = 5;  // the prompt fills it
    const auto none = generate(*model, {prompt}, options).texts.front();
    CHECK(none.ids.empty());
    CHECK(none.ending == Ending::context);
  }
}

TEST_CASE("tokens are told as they come, with the last of each text") {
  const auto model = make_model();
  const std::vector<TokenIds> prompts{ids_of(3, 2), ids_of(8, 1)};
  std::vector<TokenIds> told(2);
  std::vector<int64_t> ends(2);
  const auto made = generate(*model, prompts, options_of(6), [&](size_t prompt, int64_t id, bool is_last) {
    told.at(prompt).push_back(id);
    if (is_last) ends.at(prompt) = std::ssize(told.at(prompt));
  });
  CHECK(told == ids_of(made));
  CHECK(ends == std::vector<int64_t>{6, 6});
}

TEST_CASE("a cache has the size that its shapes say") {
  const auto model = make_model();
  // 3 blocks, keys and values of 2 prompts, 2 heads of 6 float64 each, 64 positions.
  CHECK(generate(*model, {ids_of(3, 1), ids_of(2, 1)}, options_of(4)).cache_bytes == 3 * 2 * 2 * 2 * 6 * 8 * 64);
  KvCache cache(model->config(), 1, 4, at::kDouble);
  const std::vector<kernels::CachedRun> gap{{0, 1, 2}}, long_run{{0, 0, 5}};
  CHECK_THROWS_WITH(cache.advance(gap), Contains("do not follow the 0"));
  CHECK_THROWS_WITH(cache.advance(long_run), Contains("in a cache of 4"));
}

TEST_CASE("float32 and bfloat16 generate too, from a cache as without within their roundings") {
  // Dense: a token that takes another expert is no rounding. bfloat16 rounds some 10 times a block, by 2^-9 each.
  const auto dense = [](ModelConfig& m) { m.ffn = Ffn::dense; };
  for (const auto& [dtype, tolerance] : {std::pair(at::kFloat, 1e-4), std::pair(at::kBFloat16, 0.1)}) {
    const auto model = make_model(dense, dtype);
    const auto ids = ids_of(9, 3);
    KvCache cache(model->config(), 1, 16, dtype);
    const std::vector<NewTokens> tokens{{0, ids}};
    const auto logits_V = model->extend(cache, tokens)[0];
    CHECK(logits_V.scalar_type() == dtype);
    CHECK(error_of(logits_V.to(at::kDouble), model->logits(ids)[8].to(at::kDouble)) < tolerance);
    CHECK(generate(*make_model({}, dtype), {ids}, options_of(5)).texts.front().ids.size() == 5);
  }
}

TEST_CASE("what cannot be generated is refused by name") {
  const auto model = make_model();
  auto options = options_of(4);
  options.context = 6;
  const auto refusal = [&](const std::vector<TokenIds>& prompts) {
    try {
      generate(*model, prompts, options);
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string("none");
  };
  CHECK_THAT(refusal({ids_of(6, 1), ids_of(7, 1)}),
             Contains("prompt 2 has 7 tokens, more than the model's context of 6"));
  CHECK_THAT(refusal({{}}), Contains("prompt 1 has no tokens"));
  CHECK_THAT(refusal({}), Contains("there is no prompt"));
  CHECK_THAT(refusal({{1, 50}}), Contains("prompt 1 has the id 50, which the model's vocabulary of 50 does not have"));
  CHECK_THAT(refusal({{-1}}), Contains("the id -1"));
  options.stop_ids = {50};
  CHECK_THAT(refusal({{1}}), Contains("--stop: 50 is not an id of the model"));
  options.stop_ids = {};
  options.max_tokens = 0;
  CHECK_THAT(refusal({{1}}), Contains("--max-tokens: 0"));
  options.max_tokens = 4;
  options.sampling.top_k = 3;
  CHECK_THAT(refusal({{1}}), Contains("set --temperature"));

  const auto choice = [](ModelConfig& m) { m.routing = RoutingMethod::expert_choice, m.load_balancing_weight = 0; };
  CHECK_THROWS_WITH(make_model(choice), Contains("model.routing: expert_choice"));
}

TEST_CASE("stop ids of a saved model, and a tokenizer of another model") {
  const auto saved = open_model(OLMOE_SOURCE_DIR "/tests/golden/top2_of_8");
  ByteCodec bytes;
  CHECK(default_stop_ids(saved, &bytes).contains(256));
  CHECK_FALSE(default_stop_ids(saved, nullptr).contains(256));
  auto config = tiny_model();
  CHECK_THROWS_WITH(check_codec(bytes, config), Contains("ids up to 256, and the model a vocabulary of 50"));
  config.vocab_size = 257;
  CHECK_NOTHROW(check_codec(bytes, config));
}
