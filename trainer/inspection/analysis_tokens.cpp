#include "trainer/inspection/analysis_tokens.h"

#include <algorithm>

#include "core/error.h"

namespace olmoe {

std::vector<TokenBatch> batches_of(const std::vector<DomainTokens>& domains, int64_t micro_batch) {
  std::vector<TokenBatch> out;
  int64_t first_token = 0;
  for (size_t d = 0; d < domains.size(); ++d)
    for (int64_t first = 0; first < domains[d].sequences; first += micro_batch) {
      const int64_t count = std::min(micro_batch, domains[d].sequences - first);
      out.push_back({static_cast<int64_t>(d), first, count, first_token});
      first_token += count * domains[d].source->sequence_length();
    }
  return out;
}

DomainTokens open_domain(const std::string& name, const std::vector<std::string>& files, TokenDtype dtype,
                         int64_t length, int64_t vocab_size, int64_t sequences) {
  auto dataset = std::make_shared<TokenDataset>(files, dtype, length, vocab_size);
  const int64_t all = dataset->num_sequences();
  if (all == 0 || sequences > all)
    throw ConfigError(fmt::format("--tokens {}: its files have {} sequences of {} tokens, and {} are asked for", name,
                                  all, length, sequences > 0 ? std::to_string(sequences) : "some"));
  return {name, make_file_source(std::move(dataset), 0, /*shuffle=*/false), sequences > 0 ? sequences : all};
}

}  // namespace olmoe
