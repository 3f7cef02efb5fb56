// Runs that combine variants of routers, experts, blocks, attention, data and optimizers: what each of them is tested
// for alone holds together, in every layout of four ranks and when a run resumes in another one.
#include "support/gzip.h"
#include "support/layout_ladder.h"

namespace {

using namespace olmoe;
using namespace olmoe::test;

/// Micro-batches of one sequence, which are the same in every layout, of two token files with document tables.
/// `repeats`: one of them ends with one id over and over. Experts that choose, or have a capacity, would find equal
/// tokens there.
Config document_run(const TempFolder& folder, const std::string& name, bool repeats) {
  const auto rows = [](std::initializer_list<int> ends) {
    std::string text;
    int begin = 0;
    for (const int end : ends) {
      text += fmt::format("{},{},x,f,1\n", begin, end);
      begin = end;
    }
    return text;
  };
  auto config = tiny_run(folder / name);
  config.data.synthetic = false;
  config.data.paths = {
      folder.add("a.npy", token_bytes(120, 7) + (repeats ? std::string(120, '\0') : token_bytes(60, 13))),
      folder.add("b.npy", token_bytes(97, 11))};
  write_gzip(folder / "a.csv.gz", rows({5, 6, 17, 30, 64, 65, 66, 70, 103, 111, 128, 180}));
  write_gzip(folder / "b.csv.gz", rows({40, 43, 58, 61, 84, 97}));
  config.data.document_mask = DocumentMask::table;
  config.train.steps = 4;
  config.train.micro_batch_size = 1;
  config.model.num_experts = 4;
  config.evaluation.paths = {config.data.paths.front()};
  config.evaluation.every_steps = 2;
  return config;
}

/// The blocks of OLMo 3.5 on a sigmoid router, trained by Muon.
void as_the_successor(Config& config) {
  auto& model = config.model;
  model.tie_embeddings = model.embedding_norm = true;
  model.embedding_scale = 3;
  model.norm = NormKind::layer;
  model.norm_affine = NormAffine::weight_and_bias;
  model.norm_position = NormPosition::both;
  model.qk_norm = QkNorm::per_head;
  model.clip_qkv = 0.8;
  model.attention_gate = model.scalable_softmax = true;
  model.attention_windows = {5, 0};
  model.position_embeddings = {PositionEmbedding::rotary, PositionEmbedding::none};
  model.num_shared_experts = 2;
  model.shared_expert_gate = true;
  model.dense_layers = 1;
  model.dense_width = 20;
  model.latent_dim = 8;
  model.router_score = RouterScore::sigmoid;
  model.renormalize_scores = true;
  model.balancing_bias = ExpertBias::quantile;
  model.load_balancing_granularity = BalanceGranularity::step;
  model.load_balancing_over_layers = true;
  model.load_balancing_weight = 0.5;
  model.output_z_weight = 0.2;
  model.init = InitMethod::mitchell;
  config.optimizer.kind = OptimizerKind::muon;
  config.optimizer.muon.qkv = QkvMatrices::heads;
  config.optimizer.muon.router = true;
  config.train.batch_size_warmup = {{.until_step = 2, .global_batch_size = 3}};
  config.schedule.batch_lr_power = 0.5;
}

/// Experts that choose their tokens, after which norms follow, beside weights that are frozen.
void as_expert_choice(Config& config) {
  auto& model = config.model;
  model.tie_embeddings = true;
  model.norm_position = NormPosition::post;
  model.routing = RoutingMethod::expert_choice;
  model.load_balancing_weight = 0;
  model.latent_dim = 10;
  model.num_shared_experts = 1;
  model.moe_every = 2;
  model.dense_width = 30;
  model.attention_windows = {4};
  config.optimizer.groups = {{.match = "embedding.weight", .frozen = true},
                             {.match = "*.moe.router.weight", .lr_scale = 0.5, .weight_decay = 0}};
  config.schedule.kind = ScheduleKind::wsd;
  config.schedule.cooldown_steps = 2;
}

/// Experts of a width for each block and a limited capacity, balanced by the steps before.
void as_loss_free(Config& config) {
  auto& model = config.model;
  model.layer_widths = {12, 20, 6};
  model.score_scale = 0.5;
  model.balancing_bias = ExpertBias::loss_free;
  model.balancing_bias_rate = 0.05;
  model.load_balancing_granularity = BalanceGranularity::previous_step;
  model.capacity_factor = 1;
  model.capacity_order = CapacityOrder::score;
  model.norm_affine = NormAffine::none;
  model.qk_norm = QkNorm::non_affine;
  config.optimizer.kind = OptimizerKind::muon;
  config.schedule.kind = ScheduleKind::inverse_sqrt;
}

/// One set of experts for all blocks and a constant gate; sequences that repeat themselves have no loss.
void as_layer_shared(Config& config) {
  auto& model = config.model;
  model.share_experts = true;
  model.gate = Gate::constant;
  model.tie_embeddings = true;
  model.load_balancing_granularity = BalanceGranularity::step;
  model.attention_windows = {0, 3};
  config.data.instance_filter = {.repetition_max_count = 4, .repetition_min_period = 1, .repetition_max_period = 3};
  config.optimizer.clip_warmup_factor = 3;
  config.optimizer.clip_warmup_steps = 2;
}

const std::vector<std::pair<std::string, void (*)(Config&)>> kCrossings{{"as the successor", as_the_successor},
                                                                        {"expert choice", as_expert_choice},
                                                                        {"loss-free", as_loss_free},
                                                                        {"layer-shared", as_layer_shared}};

}  // namespace

TEST_CASE("crossed variants give in every layout of four ranks what one rank gives", "[layouts]") {
  for (const auto& [name, change] : kCrossings) {
    TempFolder folder;
    auto config = document_run(folder, "single", change == as_layer_shared);
    change(config);
    const auto reference = run_single(config);
    REQUIRE(reference.metrics.size() == 6);
    const bool filtered = config.data.instance_filter.is_on();
    CHECK(std::ranges::any_of(reference.metrics, [](auto& line) { return line.contains("masked_sequences"); }) ==
          filtered);
    for (const auto& layout : layouts_of(4)) {
      config.run.folder = folder / describe(layout);
      INFO(name << ", " << describe(layout));
      CHECK(error_on_threads(config, layout, reference) <= 1e-12);
    }
  }
}

TEST_CASE("runs of crossed variants resume in another layout") {
  for (const auto& [name, change] : kCrossings) {
    TempFolder folder;
    auto config = document_run(folder, "single", change == as_layer_shared);
    change(config);
    const auto reference = run_single(config);
    config.run.folder = folder / "resumed";
    config.checkpoint.every_steps = 1;
    config.schedule.decay_steps = config.train.steps;
    config.train.steps = 2;
    apply({1, 2, 2, 3}, config);
    run_to_the_end(2, config);
    config.train.steps = 4;
    INFO(name);
    CHECK(error_on_threads(config, {2, 2, 1, 1}, reference) <= 1e-12);
  }
}
