#include "trainer/inspection/routing_analysis.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/log.h"
#include "model/block/expert_capacity.h"
#include "parallel/agreement.h"
#include "trainer/analysis/expert_weights.h"
#include "trainer/inspection/analysis_table.h"
#include "trainer/inspection/routing_pass.h"
#include "trainer/inspection/shared_record.h"
#include "trainer/inspection/weight_statistics.h"

namespace olmoe {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Throws ConfigError for a model whose tokens choose no experts.
void check_model(const SavedModel& saved) {
  const auto& model = saved.config.model;
  if (!model.has_experts()) throw ConfigError(fmt::format("{}: a dense model has no routing to analyze", saved.folder));
  if (model.experts_choose())
    throw ConfigError(
        fmt::format("{}: model.routing: expert_choice: its experts choose tokens, of which there is no "
                    "choice by token to analyze",
                    saved.folder));
}

/// Throws ConfigError where two checkpoints are not of one training.
void check_same_shape(const SavedModel& one, const SavedModel& last) {
  const auto shape = [](const ModelConfig& m) {
    return fmt::format("{} layers with experts, {} experts, top-{} and a vocabulary of {}", m.num_moe_layers(),
                       m.num_experts, m.top_k, m.vocab_size);
  };
  const auto a = shape(one.config.model), b = shape(last.config.model);
  if (a != b)
    throw ConfigError(fmt::format("{} has {}, {} has {}: they cannot be compared", one.folder, a, last.folder, b));
}

/// The analysis of one set of options, on one rank.
class Run {
 public:
  Run(const AnalysisOptions& options, Communicator& world) : options_(options), world_(world) {
    agree(world, [&] { open(); });
  }
  Analysis analyze();

 private:
  void open();
  void choose_statistics();
  void choose_layers();
  bool wants(const char* statistic) const { return contains(names_, statistic); }
  void run_checkpoint(int64_t checkpoint, StatisticsList& statistics);
  std::map<std::string, std::string> metadata() const;

  const AnalysisOptions& options_;
  Communicator& world_;
  std::vector<SavedModel> models_;
  std::vector<DomainTokens> domains_;
  std::vector<TokenBatch> batches_;
  std::vector<std::string> names_;
  AnalysisShape shape_;
  int64_t capacity_ = 0;  // of a sequence; 0 without drops
  std::unique_ptr<RoutingRecord> replay_;
  at::Tensor peaks_LE_;
};

void Run::open() {
  if (options_.models.empty()) throw ConfigError("no checkpoint to analyze");
  for (const auto& path : options_.models) {
    models_.push_back(open_model(path, options_.unknown_keys));
    check_model(models_.back());
  }
  for (const auto& model : models_) check_same_shape(model, models_.back());
  const auto& config = models_.back().config;
  const auto& model = config.model;
  const int64_t length = options_.length > 0 ? options_.length : config.data.sequence_length;
  if (options_.domains.empty()) throw ConfigError("--tokens: no domain to analyze");
  std::set<std::string> seen;
  for (const auto& [name, files] : options_.domains) {
    if (!seen.insert(name).second) throw ConfigError(fmt::format("--tokens: two domains are called {}", name));
    domains_.push_back(open_domain(name, files, options_.token_dtype.value_or(config.data.dtype), length,
                                   model.vocab_size, options_.sequences));
  }
  batches_ = batches_of(domains_, options_.layout.micro_batch);
  shape_ = {.domains = std::ssize(domains_),
            .layers = model.num_moe_layers(),
            .experts = model.num_experts,
            .top_k = model.top_k,
            .vocab_size = model.vocab_size,
            .sequence_length = length,
            .table_layers = options_.table_layers,
            .min_count = options_.min_count};
  choose_layers();
  choose_statistics();
  if (!options_.replay.empty())
    replay_ = std::make_unique<RoutingRecord>(
        options_.replay, RoutingRecord::Expected{shape_.layers, shape_.experts, shape_.top_k, length});
}

void Run::choose_layers() {
  auto& layers = shape_.table_layers;
  const int64_t last = shape_.layers - 1;
  if (layers.empty()) layers = {0, last / 2, last};
  std::sort(layers.begin(), layers.end());
  layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  if (layers.front() < 0 || layers.back() > last)
    throw ConfigError(fmt::format("--layers: the layers with experts are 0 to {}", last));
}

void Run::choose_statistics() {
  const auto& model = models_.back().config.model;
  const auto factor = options_.capacity ? options_.capacity : model.capacity_factor;
  for (const auto& name : options_.statistics) {
    if (!contains(statistic_names(), name))
      throw ConfigError(fmt::format("--statistics: {} is none of {}", name, fmt::join(statistic_names(), ", ")));
    if (name == "drops" && !factor)
      throw ConfigError("--statistics drops: the model has no capacity: give --capacity, a factor of even shares");
  }
  names_ = options_.statistics.empty() ? statistic_names() : options_.statistics;
  if (!factor) std::erase(names_, "drops");
  if (wants("drops")) capacity_ = expert_capacity(*factor, shape_.sequence_length * shape_.top_k, shape_.experts);
}

void Run::run_checkpoint(int64_t checkpoint, StatisticsList& statistics) {
  const auto& saved = models_.at(static_cast<size_t>(checkpoint));
  const bool last = checkpoint + 1 == std::ssize(models_);
  LoadedModel model(saved, forward_run(saved, options_.layout, world_.size()), world_);
  std::unique_ptr<SharedRecord> record;
  if (last && !options_.record.empty())
    record = std::make_unique<SharedRecord>(options_.record, shape_.sequence_length,
                                            options_.layout.micro_batch * shape_.sequence_length, world_);
  if (last && wants("super")) peaks_LE_ = at::zeros({shape_.layers, shape_.experts}, at::kDouble);
  statistics.begin(checkpoint);
  const RoutingPass pass{.domains = domains_,
                         .batches = batches_,
                         .replay = replay_.get(),
                         .predicts = last && wants("vocabulary"),
                         .peaks_LE = last && wants("super") ? &peaks_LE_ : nullptr,
                         .take = [&](const RoutedBatch& batch) {
                           ensure_fits(batch.tokens, shape_);
                           statistics.add(batch.tokens);
                           if (record) record->append(batch);
                         }};
  pass.run(model, world_);
  if (record) record->finish({{"model", saved.folder}});
  if (world_.rank() == 0)
    log::info("{}: {} tokens", saved.folder,
              batches_.back().first_token + batches_.back().count * shape_.sequence_length);
}

std::map<std::string, std::string> Run::metadata() const {
  std::vector<std::string> checkpoints, names;
  std::vector<int64_t> steps;
  for (const auto& model : models_) {
    checkpoints.push_back(model.folder);
    steps.push_back(model.manifest ? model.manifest->step : -1);
  }
  for (const auto& domain : domains_) names.push_back(domain.name);
  return {{"checkpoints", fmt::format("{}", fmt::join(checkpoints, "\n"))},
          {"steps", fmt::format("{}", fmt::join(steps, " "))},
          {"domains", fmt::format("{}", fmt::join(names, "\n"))},
          {"layers", std::to_string(shape_.layers)},
          {"experts", std::to_string(shape_.experts)},
          {"top_k", std::to_string(shape_.top_k)},
          {"sequence_length", std::to_string(shape_.sequence_length)},
          {"table_layers", fmt::format("{}", fmt::join(shape_.table_layers, " "))},
          {"min_count", std::to_string(shape_.min_count)},
          {"capacity", std::to_string(capacity_)}};
}

Analysis Run::analyze() {
  const auto checkpoints = std::ssize(models_);
  StatisticsList statistics(names_, shape_, checkpoints, capacity_);
  for (int64_t c = checkpoints; c-- > 0;) run_checkpoint(c, statistics);
  for (auto& counts : statistics.counts()) world_.all_reduce(counts);
  Analysis out{.arrays = statistics.arrays(), .metadata = metadata(), .table = {}};
  if (wants("similarity"))
    for (auto& array : expert_similarity(models_.back(), world_)) out.arrays.push_back(std::move(array));
  if (wants("super")) {
    world_.all_reduce(peaks_LE_, Reduce::max);
    const auto found = super_experts(peaks_LE_);
    out.arrays.push_back({"super.peaks", peaks_LE_});
    out.metadata["super_percentile"] = fmt::format("{:.17g}", found.percentile);
    out.metadata["super_tenth_of_largest"] = fmt::format("{:.17g}", found.tenth_of_largest);
  }
  out.table = describe_analysis(out.arrays, out.metadata);
  return out;
}

}  // namespace

Analysis analyze_routing(const AnalysisOptions& options, Communicator& world) { return Run(options, world).analyze(); }

}  // namespace olmoe
