#pragma once
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/config/config.h"
#include "trainer/evaluator.h"

/// What ranks must have alike before they train together: with other configs they wait for each other in vain or train
/// several models as one, without a word.
namespace olmoe {

struct StartFact {
  std::string name, value;
  bool operator==(const StartFact&) const = default;
};

/// Every field of a config by its path, an item of a list each, but for those in which ranks may differ: what suits a
/// host (run.threads, data.prefetch), and paths of token files, whose contents are compared instead.
std::vector<StartFact> config_facts(const Config& config);

/// Throws one ConfigError on all ranks where some have other facts: the first that differs, its values, which ranks
/// have which, and `advice`. One all_gather of hashes where they are alike. Collective over world.
void require_alike(Communicator& world, const std::vector<StartFact>& facts, const std::string& advice);

/// `program`, its version, commit and LibTorch, how the ranks are joined, and the config are the same on all ranks.
/// Before any other collective call, which other configs might hang. Throws ConfigError. Collective over world.
void agree_on_start(Communicator& world, const std::string& program, const std::string& mpi_version,
                    const Config& config);

/// So are the tokens of training and evaluation, whatever their paths. Throws ConfigError. Collective over world.
void agree_on_data(Communicator& world, const Config& config, const SequenceSource& source, const Evaluator& evaluator);

/// So are the files in `folder` that initial weights come from, as far as their sizes and samples of their contents
/// tell. Throws ConfigError. Collective over world.
void agree_on_weights(Communicator& world, const std::string& folder);

}  // namespace olmoe
