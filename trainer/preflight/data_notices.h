#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/same_files.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The tokens in a list of files, and those in whole sequences, which are an epoch.
struct TokenTotals {
  int64_t files = 0;
  int64_t tokens = 0;       ///< of all files
  int64_t used_tokens = 0;  ///< in whole sequences; the tail of every file is left out
  int64_t short_files = 0;  ///< files shorter than one sequence, which are not used
};
/// Tokens of the training files, from their sizes; none is opened. None where the tokens are generated, or where a file
/// is missing, which the run refuses.
std::optional<TokenTotals> token_totals(const DataConfig& data);
/// "training tokens: 3 files of 6,703 tokens, of which 640 are used, in 10 sequences of 64; the run takes 5,120: 8.00
/// epochs".
std::string describe_training_tokens(const Config& config, const TokenTotals& totals);
/// What data.instance_filter, which is on, masks.
std::string describe_filter(const InstanceFilter& filter);
/// A notice where more than 1 % of the tokens are in no sequence, or a file is shorter than one.
std::vector<std::string> left_out_notices(const Config& config, const TokenTotals& totals);

/// Token files that a config names twice, by the same path or by several: training files that are held-out files too,
/// and files that are twice in one of the lists.
struct SharedFiles {
  std::vector<SameFile> both;  ///< the training file, the held-out file
  std::vector<SameFile> training, held_out;
};
SharedFiles find_shared_files(const Config& config);
std::vector<std::string> shared_file_notices(const SharedFiles& files);

}  // namespace olmoe
