#pragma once
#include <cstdint>

#include "model/config.h"
#include "model/init.h"

namespace olmoe {

/// Sparse upcycling: experts made from the feed-forward of a dense model. Each of G = dense width / expert width pieces
/// of its hidden units is copied to E / G experts, whose router rows are random and equal for the G pieces of a copy: a
/// token that chooses a copy chooses all of it, so the first forward is that of the dense model. Source: He et al.,
/// "Upcycling Large Language Models into Mixture of Experts", arXiv 2410.07524, "virtual group".
struct Upcycling {
  int64_t experts = 0, top_k = 0;
  int64_t expert_width = 0;  ///< 0: that of the dense feed-forward, G = 1
  uint64_t seed = 0;         ///< of the router and the noise
  double noise = 0;  ///< share of the experts' weights that are drawn anew, by model.init, so that copies differ
};

/// The model that upcycling makes: as `source`, with experts and renormalised scores. Throws ConfigError, naming
/// options and keys, where `source` has more than one expert, or widths and numbers do not divide.
ModelConfig upcycled_config(const ModelConfig& source, const Upcycling& options);

/// Its weights from those of `source`, range by range.
ParamSource upcycled(const ModelConfig& source, const ParamSource& weights, const Upcycling& options);

}  // namespace olmoe
