#pragma once
#include <vector>

#include "model/init.h"

namespace olmoe {

/// The mean of the weights of models with the same parameters, summed in float64: of copies of fp32 weights it is those
/// weights, bit for bit. Throws ConfigError without a source.
ParamSource mean_of(std::vector<ParamSource> sources);

}  // namespace olmoe
