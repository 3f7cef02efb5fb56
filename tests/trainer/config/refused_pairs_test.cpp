// Settings that are refused together, and settings that are refused alone: each by its key, and each in the tables of
// docs/variants.md.
#include <algorithm>
#include <cstdlib>

#include "core/files/files.h"
#include "support/catch.h"
#include "trainer/config/config.h"

namespace {

using namespace olmoe;

const std::string kDocument = OLMOE_SOURCE_DIR "/docs/variants.md";
using Settings = std::vector<std::string>;

const Settings kCpu, kGpu{"train.device=cuda", "train.compute_dtype=bfloat16"};

struct Pair {
  std::string first, second;
  std::string key;  ///< that the problem begins with
  Settings base = kCpu;
};

const std::string kWidths = "model.layer_widths=[64, 128, 128, 64]";
const std::string kExpertChoice = "model.routing=expert_choice model.load_balancing_weight=0";

/// `first` with `second` is refused, each alone is not.
const std::vector<Pair> kConflicts{
    {"model.gate=constant", "model.renormalize_scores=true", "model.gate"},
    {"model.balancing_bias=quantile", "model.top_k=16", "model.balancing_bias"},
    {"model.capacity_order=score model.capacity_factor=1.5", "model.gate=constant", "model.capacity_order"},
    {"model.capacity_order=score model.capacity_factor=1.5", "model.top_k=1 model.renormalize_scores=true",
     "model.capacity_order"},
    {kWidths, "model.num_layers=3", "model.layer_widths"},
    {kWidths, "model.dense_width=512", "model.dense_width"},
    {kWidths, "model.share_experts=true", "model.share_experts"},
    {"model.dense_layers=3", "model.share_experts=true", "model.share_experts"},
    {kExpertChoice, "model.capacity_factor=1.5", "model.capacity_factor"},
    {kExpertChoice, "model.router_score=sigmoid", "model.router_score"},
    {kExpertChoice, "model.renormalize_scores=true", "model.renormalize_scores"},
    {kExpertChoice, "model.gate=constant", "model.gate"},
    {kExpertChoice, "model.balancing_bias=loss_free", "model.balancing_bias"},
    {kExpertChoice, "model.load_balancing_granularity=global", "model.load_balancing_granularity"},
    {"data.document_mask=table", "data.paths=[] data.synthetic=true", "data.document_mask"},
    {"schedule.batch_lr_power=0.5 train.batch_size_warmup=[{until_step: 2, global_batch_size: 1}]",
     "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {"model.capacity_factor=1.5", "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {kExpertChoice, "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {"parallel.expert=2", "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {"optimizer.kind=muon", "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {"data.document_mask=eos data.eos_id=256", "train.cuda_graph=true", "train.cuda_graph", kGpu},
    {"data.document_mask=eos data.eos_id=256", "train.attention_kernel=cudnn", "train.attention_kernel", kGpu},
    {"data.document_mask=eos data.eos_id=256", "train.compute_dtype=float32", "data.document_mask", kGpu},
    {"model.attention_windows=[64]", "train.attention_kernel=cudnn", "train.attention_kernel", kGpu},
    {"model.attention_windows=[64]", "train.compute_dtype=float32", "model.attention_windows", kGpu},
};

/// `first` without `second` is refused.
const std::vector<Pair> kNeeds{
    {"model.norm_affine=weight_and_bias", "model.norm=layer", "model.norm_affine"},
    {"model.balancing_bias_rate=0.01", "model.balancing_bias=loss_free", "model.balancing_bias_rate"},
    {"model.load_balancing_over_layers=true", "model.load_balancing_granularity=step",
     "model.load_balancing_over_layers"},
    {"model.shared_expert_gate=true", "model.num_shared_experts=1", "model.shared_expert_gate"},
    {"model.shared_expert_width=64", "model.num_shared_experts=1", "model.shared_expert_width"},
    {"model.capacity_order=score", "model.capacity_factor=1.5", "model.capacity_order"},
    {"model.routing=expert_choice", "model.load_balancing_weight=0", "model.load_balancing_weight"},
    {"model.expert_choice_scope=micro_batch", kExpertChoice, "model.expert_choice_scope"},
    {"model.dense_layers=1 model.latent_dim=64", "model.dense_width=512", "model.dense_width"},
    {kWidths + " model.num_shared_experts=1", "model.shared_expert_width=64", "model.shared_expert_width"},
    {"data.document_mask=eos", "data.eos_id=256", "data.eos_id"},
    {"data.eos_id=256", "data.document_mask=eos", "data.eos_id"},
    {"data.instance_filter.repetition_min_period=2", "data.instance_filter.repetition_max_count=32",
     "data.instance_filter.repetition_max_count"},
    {"schedule.kind=wsd", "schedule.cooldown_steps=100", "schedule.cooldown_steps"},
    {"optimizer.clip_warmup_factor=5", "optimizer.clip_warmup_steps=10", "optimizer.clip_warmup_factor"},
    {"optimizer.clip_warmup_steps=10", "optimizer.clip_warmup_factor=5", "optimizer.clip_warmup_steps"},
};

/// Of "key=value key=value".
Settings split(const std::string& text) {
  Settings out;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min({text.find(" data.", begin), text.find(" model.", begin), text.find(" train.", begin)});
    out.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return out;
}

/// What a config with these settings is refused with; empty: it is not.
std::string refusal(Settings settings, const std::vector<std::string>& more) {
  settings.insert(settings.begin(), "run.folder=x");
  for (const auto& text : more)
    for (const auto& setting : split(text)) settings.push_back(setting);
  try {
    load_config(OLMOE_SOURCE_DIR "/configs/tiny-cpu.yaml", settings);
    return "";
  } catch (const ConfigError& error) {
    return error.what();
  }
}

std::string table(const std::string& heading, const std::vector<Pair>& pairs) {
  std::string out = heading + "| | | refused by |\n| --- | --- | --- |\n";
  for (const auto& pair : pairs)
    out += fmt::format("| `{}`{} | `{}` | `{}` |\n", pair.first, pair.base.empty() ? "" : " on a GPU", pair.second,
                       pair.key);
  return out;
}

}  // namespace

TEST_CASE("settings that exclude each other are refused by key, and each alone is accepted") {
  for (const auto& [first, second, key, base] : kConflicts) {
    INFO(first << " with " << second);
    CHECK(refusal(base, {first}).empty());
    CHECK(refusal(base, {second}).empty());
    CHECK_THAT(refusal(base, {first, second}), Catch::Contains(key + ":"));
  }
}

TEST_CASE("settings that need another one are refused by key without it") {
  for (const auto& [first, second, key, base] : kNeeds) {
    INFO(first << " without " << second);
    CHECK_THAT(refusal(base, {first}), Catch::Contains(key + ":"));
    CHECK(refusal(base, {first, second}).empty());
  }
}

TEST_CASE("docs/variants.md lists refused settings; OLMOE_UPDATE_DOCS=1 writes the tables") {
  const std::string begin = "## Refused\n", end = "\n## ";
  const auto text = begin + table("\nTogether:\n\n", kConflicts) + table("\nThe first without the second:\n\n", kNeeds);
  auto page = read_text(kDocument);
  const size_t from = page.find(begin);
  REQUIRE(from != std::string::npos);
  const size_t to = page.find(end, from);
  page.replace(from, to == std::string::npos ? to : to - from, text);
  const char* update = std::getenv("OLMOE_UPDATE_DOCS");
  if (update != nullptr && std::string(update) == "1") write_text_atomic(kDocument, page);
  CHECK(read_text(kDocument) == page);
}
