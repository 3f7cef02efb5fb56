#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "model/init.h"
#include "trainer/config/config.h"
#include "trainer/conversion/param_stream.h"
#include "trainer/conversion/progress.h"

namespace olmoe {

/// A checkpoint of weights alone: by it a run starts (train.init_from), but none resumes.
struct WeightsCheckpoint {
  Config config;        ///< of the model; other sections are what its source had, or their defaults
  ParamSource weights;  ///< and `buffers`
  safetensors::Dtype dtype = safetensors::Dtype::f32;  ///< or f64
  std::map<std::string, std::string> made_by;          ///< what of; version and commit are added
  std::vector<WholeParam> buffers = {};                ///< such as biases of experts; others start as in a new run
};

/// Bytes of the tensors that write_weights_checkpoint() writes.
int64_t weight_bytes(const WeightsCheckpoint& checkpoint);

/// Writes shard files of whole parameters and buffers, of about `shard_bytes` each, and the manifest, of step 0, to an
/// existing folder (docs/checkpoint_format.md). Throws an Error with ExitCode::non_finite for a weight that is not
/// finite.
void write_weights_checkpoint(const std::string& folder, const WeightsCheckpoint& checkpoint, const Progress& progress,
                              int64_t shard_bytes = int64_t{4} << 30);

}  // namespace olmoe
