// Shapes: B sequences of S tokens, N = B*S; L layers with experts, T of them with tables by id; K experts a token, E
// experts, G domains, V ids.
#pragma once
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace olmoe {

/// Whole sequences of one domain and the experts that each layer chose for their tokens; in host memory, contiguous.
struct RoutedTokens {
  int64_t first = 0;  ///< number of the first token among those of all ranks: the same in every layout
  int64_t domain = 0;
  at::Tensor ids_BS = {};        ///< int64
  at::Tensor next_BS = {};       ///< int64; kIgnoredTarget where a sequence has no next id
  at::Tensor predicted_BS = {};  ///< int64: the next id that the model finds most likely
  at::Tensor experts_LNK = {};   ///< int32, of each token by falling score

  int64_t num_tokens() const { return ids_BS.numel(); }
};

/// What the sizes of all statistics follow from.
struct AnalysisShape {
  int64_t domains = 1, layers = 1, experts = 1, top_k = 1, vocab_size = 1, sequence_length = 1;
  std::vector<int64_t> table_layers = {};  ///< layers, counted among those with experts, of counts by id
  int64_t min_count = 1;                   ///< occurrences of an id from which on it has a distribution over experts
};

/// A result: int64 counts, or float64.
struct NamedArray {
  std::string name;
  at::Tensor values;
};

/// Counts of routed tokens. Ranks count their own, and their counts are added: every number that is not a count follows
/// from the sums, and so is the same in every layout.
class Statistic {
 public:
  virtual ~Statistic() = default;
  virtual void add(const RoutedTokens& tokens) = 0;
  /// All int64 counts, for the caller to sum over ranks in place.
  virtual std::vector<at::Tensor> counts() = 0;
  /// The counts and what follows from them.
  virtual std::vector<NamedArray> arrays() const = 0;
};

/// Throws Error unless the tokens have the shapes and dtypes of `shape`, with experts below its number.
void ensure_fits(const RoutedTokens& tokens, const AnalysisShape& shape);
/// Counts divided as float64; 0 where the divisor is 0.
at::Tensor ratio(const at::Tensor& counts, const at::Tensor& of);

}  // namespace olmoe
