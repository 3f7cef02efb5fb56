#pragma once
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "parallel/collectives/communicator.h"
#include "trainer/config/config.h"
#include "trainer/evaluator.h"

/// Checks at the start that all ranks have the same program, config and data: with different configs they would wait
/// for each other forever, or train different models as one without an error.
namespace olmoe {

struct StartFact {
  std::string name, value;
  bool operator==(const StartFact&) const = default;
};

/// Every field of a config by its path, lists item by item, except those that are marked as per_host(): numbers of
/// cores and amounts of memory may differ, and paths of data files, whose contents agree_on_data compares.
std::vector<StartFact> config_facts(const Config& config);

/// Throws one ConfigError on all ranks where their facts differ: the first that differs, each value with its ranks, and
/// `advice`. One all_gather of hashes where they are equal. Collective over world.
void require_alike(Communicator& world, const std::vector<StartFact>& facts, const std::string& advice);

/// Checks that `program`, its version, commit, LibTorch and MPI library, and the config are equal on all ranks. Call
/// before any other collective, which different configs might hang. Throws ConfigError. Collective over world.
void agree_on_start(Communicator& world, const std::string& program, const std::string& mpi_version,
                    const Config& config);

/// Checks the same of the tokens of training and evaluation, whatever their paths. Throws ConfigError. Collective over
/// world.
void agree_on_data(Communicator& world, const Config& config, const SequenceSource& source, const Evaluator& evaluator);

/// Checks the same of the initial weights in `folder`, by the sizes of the files and samples of their contents. Throws
/// ConfigError. Collective over world.
void agree_on_weights(Communicator& world, const std::string& folder);

}  // namespace olmoe
