// Shapes: B sequences of S tokens.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "data/data_loader.h"
#include "data/token_files.h"

namespace olmoe {

/// Sequences of one domain, in the order of its files.
struct DomainTokens {
  std::string name;
  std::shared_ptr<const SequenceSource> source;
  int64_t sequences;
};

/// Consecutive sequences of a domain that one rank computes at once.
struct TokenBatch {
  int64_t domain = 0, first = 0, count = 0;  ///< sequences [first, first + count) of the domain
  int64_t first_token = 0;                   ///< among the tokens of all domains, in order
};

/// All sequences of all domains in batches of at most `micro_batch`, in order. They do not depend on the ranks; batch i
/// is of rank i mod ranks.
std::vector<TokenBatch> batches_of(const std::vector<DomainTokens>& domains, int64_t micro_batch);

/// The first `sequences` of `length` tokens of a domain's files (0: all). Throws ConfigError, naming the domain, where
/// there are fewer, and DataError.
DomainTokens open_domain(const std::string& name, const std::vector<std::string>& files, TokenDtype dtype,
                         int64_t length, int64_t vocab_size, int64_t sequences);

}  // namespace olmoe
