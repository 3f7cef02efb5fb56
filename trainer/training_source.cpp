#include "trainer/training_source.h"

#include <utility>

#include "core/log.h"
#include "data/documents.h"
#include "data/instance_filter.h"
#include "data/sequence_skip.h"
#include "data/token_files.h"
#include "parallel/agreement.h"
#include "parallel/joined_hashes.h"
#include "trainer/start_agreement.h"

namespace olmoe {

namespace {

std::shared_ptr<const SequenceSource> make_whole_source(const Config& config, Communicator& world) {
  const auto& data = config.data;
  const auto seed = static_cast<uint64_t>(config.run.seed);
  if (data.synthetic) return make_synthetic_source(data.sequence_length, config.model.vocab_size, seed);
  const bool full = data.verify == DataVerify::full;
  std::shared_ptr<TokenDataset> dataset;
  std::shared_ptr<const DocumentTables> tables;
  std::vector<std::string> hashes;
  agree(world, [&] {
    dataset = std::make_shared<TokenDataset>(data.all_paths(), data.dtype, data.sequence_length,
                                             config.model.vocab_size, OpenFiles::kept);
    if (data.check_ids || full) hashes = dataset->read_all(world.rank(), world.size());
    if (data.document_mask == DocumentMask::table) tables = std::make_shared<DocumentTables>(*dataset);
  });
  if (tables) log::info("{}", describe(*tables));
  if (full)
    require_alike(world, {{"token files (data.paths)", std::to_string(hashes.size())}},
                  "Every rank must read the same token files");
  const auto all_bytes = full ? join_hashes(world, hashes) : std::string();
  return make_file_source(std::move(dataset), seed, /*shuffle=*/true, all_bytes, std::move(tables));
}

}  // namespace

std::shared_ptr<const SequenceSource> make_source(const Config& config, Communicator& world) {
  auto source = make_whole_source(config, world);
  if (config.data.eos_id) source = make_eos_documents(std::move(source), *config.data.eos_id);
  if (!config.data.skip.empty()) {
    SequenceSkip skip(config.data.skip, config.train.batch_sizes());
    for (const auto& [begin, end] : skip.positions())
      log::info("data.skip: sequences {} to {} of the shuffled stream are left out", begin, end - 1);
    source = make_skipping_source(std::move(source), std::move(skip));
  }
  if (config.data.instance_filter.is_on())
    source = make_filtered_source(std::move(source), config.data.instance_filter);
  return source;
}

std::unique_ptr<const RoutingRecord> open_record(const Config& config, Communicator& world) {
  std::unique_ptr<const RoutingRecord> record;
  if (config.train.replay_routing.empty()) return record;
  agree(world, [&] {
    record = std::make_unique<RoutingRecord>(config.train.replay_routing,
                                             RoutingRecord::Expected{.layers = config.model.num_moe_layers(),
                                                                     .experts = config.model.num_experts,
                                                                     .top_k = config.model.top_k,
                                                                     .sequence_length = config.data.sequence_length});
  });
  return record;
}

Batch replayed(Batch batch, const RoutingRecord* record) {
  if (record) batch.experts_LNK = record->experts_of(batch.ids_BS);
  return batch;
}

}  // namespace olmoe
