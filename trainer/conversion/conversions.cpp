#include "trainer/conversion/conversions.h"

#include <fmt/ranges.h>

#include <map>
#include <set>

#include "trainer/checkpoint/state_tensor.h"
#include "trainer/config/model_differences.h"
#include "trainer/conversion/average.h"
#include "trainer/conversion/hf_export.h"
#include "trainer/conversion/hf_folder.h"
#include "trainer/conversion/hf_names.h"
#include "trainer/conversion/hf_tokenizer.h"
#include "trainer/conversion/new_folder.h"
#include "trainer/conversion/saved_model.h"
#include "trainer/conversion/weights_checkpoint.h"

namespace olmoe {
namespace {

void write_checkpoint(const NewFolder& target, const WeightsCheckpoint& checkpoint, const Progress& progress) {
  target.fill(weight_bytes(checkpoint),
              [&](const std::string& folder) { write_weights_checkpoint(folder, checkpoint, progress); });
}

std::map<std::string, std::string> made_by(const char* command, const std::vector<std::string>& sources) {
  return {{"program", std::string("olmoe-checkpoint ") + command},
          {"sources", fmt::format("{}", fmt::join(sources, ", "))}};
}

/// A buffer is a part of the model, such as the bias of its experts, but for what only losses of training read.
void refuse_buffers(const SavedModel& model, const HfForm& form) {
  std::set<std::string> placed;
  for (const auto& tensor : hf_tensors(form.config)) placed.insert(tensor.name);
  for (const auto& buffer : model.buffers())
    if (!placed.contains(buffer.name) && !is_of_losses(buffer.name))
      throw ConfigError(
          fmt::format("{}: buffer {}: {} has no place for it", model.folder, buffer.name, form.hf->architecture));
}

/// A mean has weights alone.
void refuse_balancing_bias(const SavedModel& model) {
  if (model.config.model.has_experts() && model.config.model.balancing_bias != ExpertBias::none)
    throw ConfigError(fmt::format("{}: model.balancing_bias: {}: a mean of weights has no bias of the experts",
                                  model.folder, enum_name(model.config.model.balancing_bias)));
}

/// Ids of a model with `vocab_size` rows.
SpecialIds special_ids(const std::optional<HfTokenizer>& tokenizer, const ExportOptions& options, int64_t vocab_size) {
  if (options.eos_id && (*options.eos_id < 0 || *options.eos_id >= vocab_size))
    throw ConfigError(fmt::format("--eos-id: {} is not below model.vocab_size, {}", *options.eos_id, vocab_size));
  if (!tokenizer) return {{}, options.eos_id, options.eos_id};
  if (tokenizer->num_ids() > vocab_size)
    throw ConfigError(fmt::format("--tokenizer: {} has {} ids, more than model.vocab_size, {}", options.tokenizer,
                                  tokenizer->num_ids(), vocab_size));
  return tokenizer->ids();
}

}  // namespace

void export_model(const std::string& source, const std::string& folder, const ExportOptions& options,
                  const Progress& progress, UnknownKeys unknown) {
  NewFolder target(folder);
  const auto model = open_model(source, unknown);
  const auto form = hf_form(model.config.model, model.values());
  refuse_buffers(model, form);
  std::optional<HfTokenizer> tokenizer;
  if (!options.tokenizer.empty()) tokenizer.emplace(options.tokenizer, options.eos_id);
  const HfExport written{.dtype = options.dtype,
                         .max_shard_bytes = options.max_shard_bytes,
                         .max_positions = model.config.data.sequence_length,
                         .ids = special_ids(tokenizer, options, model.config.model.vocab_size)};
  target.fill(hf_weight_bytes(form, options.dtype), [&](const std::string& path) {
    if (tokenizer) tokenizer->write(path, written.max_positions);
    write_hf_model(path, form, written, progress);
  });
  target.commit();
}

void import_model(const std::string& hf_folder, const std::string& checkpoint, const Progress& progress) {
  NewFolder target(checkpoint);
  ensure_hf_folder(hf_folder);
  const auto model = open_model(hf_folder);
  write_checkpoint(
      target, {model.config, model.values(), model.master_dtype(), made_by("import", {hf_folder}), model.buffers()},
      progress);
  target.commit();
}

void average_models(const std::string& checkpoint, const std::vector<std::string>& sources, const Progress& progress,
                    UnknownKeys unknown) {
  NewFolder target(checkpoint);
  std::vector<SavedModel> models;
  std::vector<ParamSource> weights;
  for (const auto& source : sources) {
    models.push_back(open_model(source, unknown));
    refuse_balancing_bias(models.back());
    weights.push_back(models.back().weights());
    const auto differences = model_differences(models.front().config.model, models.back().config.model);
    if (!differences.empty())
      throw ConfigError(
          fmt::format("{} is another model than {}:\n  {}", source, sources.front(), fmt::join(differences, "\n  ")));
  }
  const auto mean = mean_of(std::move(weights));
  const auto& first = models.front();
  write_checkpoint(target, {first.config, mean, first.master_dtype(), made_by("average", sources)}, progress);
  target.commit();
}

void upcycle_model(const std::string& source, const std::string& checkpoint, const Upcycling& options,
                   const Progress& progress, UnknownKeys unknown) {
  NewFolder target(checkpoint);
  const auto model = open_model(source, unknown);
  auto config = model.config;
  config.model = upcycled_config(model.config.model, options);
  const auto weights = upcycled(model.config.model, model.weights(), options);
  auto made = made_by("upcycle", {source});
  made["upcycling"] = fmt::format("--experts {} --top-k {} --expert-width {} --seed {} --noise {}", options.experts,
                                  options.top_k, config.model.expert_width, options.seed, options.noise);
  write_checkpoint(target, {config, weights, model.master_dtype(), made}, progress);
  target.commit();
}

}  // namespace olmoe
