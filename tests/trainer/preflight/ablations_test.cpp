// The 51 ablations of the OLMoE paper (arXiv 2409.02060, and the configs that were published with it): each file of
// configs/ablations/ is the base with the changes below, has the parameters below, and could start.
#include <filesystem>
#include <functional>
#include <set>

#include "core/files/files.h"
#include "model/flops.h"
#include "support/catch.h"
#include "trainer/preflight/dry_run.h"

namespace {

using namespace olmoe;
namespace fs = std::filesystem;

const std::string kConfigs = OLMOE_SOURCE_DIR "/configs/";
using Change = std::function<void(Config&)>;

struct Ablation {
  std::string name, original;
  int64_t total, active;  ///< parameters
  int64_t entries;        ///< of its list of token files
  std::vector<Change> changes;
};

constexpr int64_t kFinalMix = 1274, kEarlierMix = 1389, kDolma17 = 1640, kDolma2Tokens = 1122, kSources = 1033;

Change experts(int64_t num_experts, int64_t top_k, int64_t width) {
  return [=](Config& c) {
    c.model.num_experts = num_experts, c.model.top_k = top_k, c.model.expert_width = width;
    c.model.router_z_weight = 0.001 / static_cast<double>(top_k);
  };
}

/// 52 or 130 billion tokens on the earlier mix, in batches of 1024 x 4096.
void short_run(Config& c) {
  c.model.qk_norm = QkNorm::none;
  c.train.steps = c.schedule.decay_steps = 12'398;
  c.schedule.warmup_steps = 2000;
  c.data.instance_filter = {};
}
void longer_run(Config& c) {
  short_run(c);
  c.train.steps = 30'993, c.schedule.decay_steps = 30'995;
  c.train.micro_batch_size = 8;
  c.parallel.shard = 128;
}
void dense(Config& c) {
  c.model.ffn = Ffn::dense;
  c.optimizer.decay_embeddings = false;
}
void filter(Config& c) { c.data.instance_filter = {32, 1, 13}; }
void no_filter(Config& c) { c.data.instance_filter = {}; }
void decay_embeddings(Config& c) { c.optimizer.decay_embeddings = true; }
void keep_norms(Config& c) { c.optimizer.decay_norms = false; }
void small_eps(Config& c) { c.optimizer.eps = 1e-8; }
void no_qk_norm(Config& c) { c.model.qk_norm = QkNorm::none; }
void plain_qk_norm(Config& c) { c.model.qk_norm = QkNorm::non_affine; }
void shared_expert(Config& c) { c.model.num_shared_experts = 1; }
void documents(Config& c) { c.data.document_mask = DocumentMask::eos, c.data.eos_id = 50'279; }
void dolma2_tokens(Config& c) { c.model.vocab_size = 100'352, c.data.dtype = TokenDtype::uint32; }

/// 3e12 tokens of Dolma 1.7.
void dolma17(Config& c) {
  experts(8, 2, 8192)(c);
  plain_qk_norm(c);
  c.train.steps = c.schedule.decay_steps = 715'256;
  c.optimizer.eps = 1e-5, c.optimizer.decay_embeddings = false;
}
/// The first runs: 3e12 tokens in batches of 512 x 4096.
void early(Config& c) {
  c.model.top_k = 2, c.model.expert_width = 8192;
  c.model.router_z_weight = 0, c.model.load_balancing_weight = 0.1;
  c.model.clip_qkv = 8, c.model.norm = NormKind::layer, c.model.norm_affine = NormAffine::none;
  c.model.init_cutoff.reset();
  c.train.steps = c.schedule.decay_steps = 1'430'512;
  c.train.global_batch_size = 512, c.schedule.warmup_steps = 5000;
  c.optimizer.eps = 1e-5, c.optimizer.clip_warmup_factor = 5, c.optimizer.clip_warmup_steps = 1000;
  no_filter(c);
}

/// A model of that width, with so many blocks and heads.
Change scaled(int64_t d_model, int64_t layers, int64_t heads) {
  return [=](Config& c) {
    c.model.d_model = d_model, c.model.num_layers = layers;
    c.model.num_heads = c.model.num_kv_heads = heads;
  };
}
void one_at_a_time(Config& c) { c.train.micro_batch_size = 1; }

// clang-format off
std::vector<Ablation> of_dense_models() {
  constexpr int64_t kSize = 1'279'854'592;
  const std::string of = "olmo-1b-newhp-";
  return {
      {"dense-52b", of + "newds.yml", kSize, kSize, kEarlierMix, {short_run, dense}},
      {"dense-52b-decay-embeddings", of + "newds-s3.yml", kSize, kSize, kEarlierMix,
       {short_run, dense, decay_embeddings}},
      {"moe-vs-dense-dense", of + "newds-cx5.yml", kSize, kSize, kEarlierMix, {longer_run, dense}},
      {"starcoder-fix-dense", of + "newds-cx5-datafix.yml", kSize, kSize, kFinalMix, {longer_run, dense, filter}},
      {"dataset-with-flan", of + "newds-cx5-flan.yml", kSize, kSize, kEarlierMix + 66, {longer_run, dense}},
      {"dataset-with-reddit", of + "newds-cx5-reddit.yml", kSize, kSize, kEarlierMix + 78, {longer_run, dense}},
      {"dataset-dolma-1.7-52b", of + "oldds.yml", kSize, kSize, kDolma17, {short_run, dense, filter}},
      {"dataset-dolma-1.7-52b-decay-embeddings", of + "oldds-s3.yml", kSize, kSize, kDolma17,
       {short_run, dense, filter, decay_embeddings}},
      {"dataset-dolma-1.7", of + "oldds-cx5.yml", kSize, kSize, kDolma17, {longer_run, dense, filter}},
  };
}

std::vector<Ablation> of_experts() {
  const std::string of = "olmoe-8x1b-newhp-newds";
  constexpr int64_t kTotal8 = 6'917'261'312, kActive8 = 1'280'116'736, kTotal32 = 6'918'047'744;
  const std::vector<Change> shared{longer_run, experts(32, 3, 2048), shared_expert};
  return {
      {"granularity-8-experts-52b", of + ".yml", kTotal8, kActive8, kEarlierMix, {short_run, experts(8, 1, 8192)}},
      {"granularity-8-experts-52b-s3", of + "-s3.yml", kTotal8, kActive8, kEarlierMix,
       {short_run, experts(8, 1, 8192)}},
      {"granularity-8-experts", of + "-cx5.yml", kTotal8, kActive8, kEarlierMix, {longer_run, experts(8, 1, 8192)}},
      {"granularity-8-experts-s3", of + "-s3-cx5.yml", kTotal8, kActive8, kEarlierMix,
       {longer_run, experts(8, 1, 8192)}},
      {"granularity-32-experts", of + "-cx5-fine.yml", kTotal32, 1'280'903'168, kEarlierMix,
       {longer_run, experts(32, 4, 2048)}},
      {"granularity-64-experts", of + "-cx5-fine1.yml", 6'919'096'320, 1'281'951'744, kEarlierMix, {longer_run}},
      {"granularity-128-experts", of + "-cx5-fine05.yml", 6'921'193'472, 1'284'048'896, kEarlierMix,
       {longer_run, experts(128, 16, 512)}},
      {"active-experts-2-of-8", of + "-cx5-k2.yml", kTotal8, 2'085'423'104, kEarlierMix,
       {longer_run, experts(8, 2, 8192)}},
      {"active-experts-8-of-32", of + "-cx5-k2-fine.yml", kTotal32, 2'086'209'536, kEarlierMix,
       {longer_run, experts(32, 8, 2048)}},
      {"active-experts-8-of-32-s3", of + "-cx5-k2-fine-s3.yml", kTotal32, 2'086'209'536, kEarlierMix,
       {longer_run, experts(32, 8, 2048)}},
      {"shared-expert", of + "-cx5-fine-shared.yml", 7'119'374'336, 1'280'903'168, kEarlierMix, shared},
      {"shared-expert-s3", of + "-cx5-fine-shared-s3.yml", 7'119'374'336, 1'280'903'168, kEarlierMix, shared},
  };
}

std::vector<Ablation> of_the_fine_model() {
  const std::string of = "olmoe-8x1b-newhp-newds-cx5-fine1-";
  constexpr int64_t kTotal = 6'919'096'320, kActive = 1'281'951'744;
  const Change longer_sequences = [](Config& c) {
    c.data.sequence_length = 8192, c.train.global_batch_size = 512, c.train.recompute = Recompute::full;
    c.parallel.shard = 64;
  };
  const Change post_norm = [](Config& c) { c.model.norm_position = NormPosition::post; };
  return {
      {"instance-filter", of + "datafix.yml", kTotal, kActive, kEarlierMix, {longer_run, filter}},
      {"document-mask", of + "docmask.yml", kTotal, kActive, kEarlierMix, {longer_run, filter, documents}},
      {"context-8k-document-mask", of + "docmask-8k.yml", kTotal, kActive, kEarlierMix,
       {longer_run, filter, documents, longer_sequences}},
      {"norm-position-post", of + "normreorder.yml", kTotal, kActive, kEarlierMix, {longer_run, filter, post_norm}},
      {"tokenizer-dolma2", of + "newtok.yml", 7'124'092'928, 1'486'948'352, kDolma2Tokens,
       {longer_run, filter, dolma2_tokens}},
  };
}

std::vector<Ablation> of_the_final_run() {
  const std::string of = "olmoe-8x1b-newhp-newds-";
  constexpr int64_t kTotal = 6'919'161'856, kActive = 1'282'017'280;
  const Change anneal = [](Config& c) {
    c.run.seed = 42, c.train.steps = 23'842;
    c.train.init_from = "runs/olmoe-1b-7b/checkpoints/step_001200000";
    c.train.init_optimizer = InitOptimizer::keep;
    c.optimizer.lr = 4e-5;
    c.schedule = {.kind = ScheduleKind::linear, .warmup_steps = 0, .final_fraction = 0};
  };
  const Change as_one_expert = [](Config& c) { c.model.ffn = Ffn::dense, c.model.dense_width = 1024; };
  const Change three_times = [](Config& c) { c.train.steps = c.schedule.decay_steps = 3'576'279; };
  const Change short_schedule = [](Config& c) {
    c.train.steps = 1'192'093, c.schedule.decay_steps = 12'398, c.schedule.warmup_steps = 2000;
  };
  return {
      {"final-run", of + "final.yml", kTotal, kActive, kFinalMix, {}},
      {"final-run-s3", of + "final-s3.yml", kTotal, kActive, kFinalMix, {}},
      {"final-run-anneal", of + "final-anneal.yml", kTotal, kActive, kFinalMix, {anneal}},
      {"final-run-dense", of + "final-densecomp.yml", 575'277'056, 575'277'056, kFinalMix, {as_one_expert}},
      {"final-run-dolma2", of + "final-v2.yml", 7'124'158'464, 1'487'013'888, kDolma2Tokens,
       {dolma2_tokens, three_times, no_filter}},
      {"qk-norm-non-affine", of + "k2qk.yml", 6'917'261'312, 2'085'423'104, kFinalMix,
       {experts(8, 2, 8192), plain_qk_norm, short_schedule}},
  };
}

std::vector<Ablation> before_the_final_run() {
  const std::string of = "olmoe17-8x1b-final";
  constexpr int64_t kTotal = 6'917'261'312, kActive = 2'085'423'104, kTotal64 = 6'919'096'320,
                    kActive64 = 2'087'258'112;
  const Change stops_early = [](Config& c) { c.train.steps = 12'398, c.schedule.decay_steps = 715'256; };
  const Change of_16 = [](Config& c) {
    c.model.num_experts = 16;
    c.data.skip = {{SkipUnit::steps, 1, 136'153}};
  };
  const Change of_8 = [](Config& c) { c.model.num_experts = 8; };
  return {
      {"dataset-dolma-1.7-moe", "olmoe-8x1b-newhp-oldds.yml", 6'917'261'312, 2'085'423'104, kDolma17,
       {experts(8, 2, 8192), no_qk_norm, keep_norms, stops_early}},
      {"early-shared-expert", "olmoe17-16x1b-fullshard-swiglu-wrapb-s1k1.yml", 14'165'213'184, 2'890'924'032, kSources,
       {early, of_16, no_qk_norm, shared_expert, one_at_a_time}},
      {"early-qk-norm", "olmoe17-8x1b-fullshard-swiglu-wrapb-k2-qknorm-zloss.yml", 6'917'193'728, 2'085'355'520,
       kSources, {early, of_8, plain_qk_norm}},
      {"dolma-1.7-baseline", of + ".yml", kTotal, kActive, kDolma17, {dolma17}},
      {"dolma-1.7-baseline-weka", of + "-weka.yaml", kTotal, kActive, kDolma17, {dolma17}},
      {"embedding-decay", of + "-decemb.yml", kTotal, kActive, kDolma17, {dolma17, decay_embeddings}},
      {"embedding-decay-again", of + "-decln.yml", kTotal, kActive, kDolma17, {dolma17, decay_embeddings}},
      {"adamw-eps", of + "-eps.yml", kTotal, kActive, kDolma17, {dolma17, decay_embeddings, small_eps}},
      {"qk-norm-none", of + "-eps-noqk.yml", kTotal, kActive, kDolma17,
       {dolma17, decay_embeddings, small_eps, no_qk_norm}},
      {"norm-decay-none", of + "-nodecln.yml", kTotal, kActive, kDolma17,
       {dolma17, decay_embeddings, small_eps, keep_norms}},
      {"norm-decay-none-again", of + "-normdc.yml", kTotal, kActive, kDolma17,
       {dolma17, decay_embeddings, small_eps, keep_norms}},
      {"granularity-16-of-64", of + "-fine.yml", kTotal64, kActive64, kDolma17, {dolma17, experts(64, 16, 1024)}},
      {"granularity-16-of-64-eps", of + "-eps-fine.yml", kTotal64, kActive64, kDolma17,
       {dolma17, experts(64, 16, 1024), decay_embeddings, small_eps}},
  };
}

std::vector<Ablation> of_larger_models() {
  const Change large = [](Config& c) {
    c.train.recompute = Recompute::selective;
    c.optimizer.lr = 3e-4;
  };
  return {
      {"scale-15b", "olmoe-8x1b-newhp-newds-final-double.yml", 15'107'557'376, 2'423'982'080, kFinalMix,
       {scaled(2048, 24, 16), experts(64, 8, 1536)}},
      {"scale-16b", "olmoe-8x1b-newhp-newds-final-double-alt.yml", 15'990'376'960, 2'778'319'360, kFinalMix,
       {scaled(2560, 24, 16), experts(64, 8, 1280)}},
      {"scale-23b", "olmoe-8x2b-newhp-newds-final.yml", 22'963'325'952, 3'937'963'008, kFinalMix,
       {scaled(3072, 24, 24), experts(64, 8, 1536)}},
      {"scale-28b", "olmoe-8x7b.yml", 28'334'100'480, 5'785'522'176, kFinalMix,
       {scaled(4096, 32, 32), experts(32, 4, 2048), one_at_a_time}},
      {"scale-38b", "olmoe-8x7b-A7B.yml", 38'001'971'200, 6'997'676'032, kFinalMix,
       {scaled(4096, 32, 32), experts(64, 8, 1408), one_at_a_time}},
      {"scale-54b", "olmoe17-8x7b-final.yml", 54'100'496'384, 15'445'790'720, kDolma17,
       {dolma17, scaled(4096, 32, 32), experts(8, 2, 16'384), one_at_a_time, large}},
  };
}
// clang-format on

const std::vector<Ablation>& all_ablations() {
  static const std::vector<Ablation> all = [] {
    std::vector<Ablation> table;
    for (const auto& part : {of_dense_models(), of_experts(), of_the_fine_model(), of_the_final_run(),
                             of_larger_models(), before_the_final_run()})
      table.insert(table.end(), part.begin(), part.end());
    return table;
  }();
  return all;
}

std::string path_of(const Ablation& ablation) { return kConfigs + "ablations/" + ablation.name + ".yaml"; }

}  // namespace

TEST_CASE("the files of configs/ablations are the paper's 51, each with the original's name in its first line") {
  std::set<std::string> names, originals, files;
  for (const auto& ablation : all_ablations()) {
    names.insert(ablation.name);
    originals.insert(ablation.original);
    INFO(ablation.name);
    CHECK(read_text(path_of(ablation)).starts_with("# " + ablation.original + ": "));
  }
  CHECK(originals.size() == 51);
  for (const auto& entry : fs::directory_iterator(kConfigs + "ablations"))
    if (entry.is_regular_file()) files.insert(entry.path().stem());
  CHECK(files == names);
}

TEST_CASE("an ablation is the base with its changes and no others, and has the paper's parameters") {
  const auto base = load_config(kConfigs + "olmoe-1b-7b.yaml", {});
  for (const auto& ablation : all_ablations()) {
    INFO(ablation.name);
    const auto config = load_config(path_of(ablation), {});
    CHECK(std::ssize(config.data.paths) == ablation.entries);
    auto expected = base;
    expected.run.folder = "runs/ablations/" + ablation.name;
    expected.data.paths = config.data.paths;
    for (const auto& change : ablation.changes) change(expected);
    CHECK(differing_fields(expected, config) == std::vector<std::string>{});
    const auto counts = count_parameters(config.model);
    CHECK(counts.total == ablation.total);
    CHECK(counts.active == ablation.active);
  }
}

TEST_CASE("every ablation passes a dry run at the paper's size") {
  for (const auto& ablation : all_ablations()) {
    INFO(ablation.name);
    auto config = load_config(path_of(ablation), {});
    config.checkpoint.every_steps = 0, config.checkpoint.save_last = false;  // the disk of this machine is no matter
    config.train.init_from.clear(), config.train.init_optimizer = InitOptimizer::reset;
    const auto ranks = static_cast<int>(config.parallel.replicate * config.parallel.shard);
    const auto plan = dry_run(config, ranks, /*gpu=*/"h100", UnknownKeys::refused);
    CHECK(plan.fits);
    CHECK_THAT(plan.text,
               Catch::Contains(fmt::format("{0} of {0} files are missing on this machine", ablation.entries)));
    CHECK((plan.text.find("data.instance_filter: ") != std::string::npos) == config.data.instance_filter.is_on());
  }
}
