#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/files/safetensors.h"
#include "model/init.h"
#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/checkpoint/checkpoint_reader.h"
#include "trainer/config/config.h"
#include "trainer/conversion/param_stream.h"
#include "trainer/conversion/progress.h"

namespace olmoe {

/// A model on disk: a checkpoint of ours, or a Hugging Face folder. Read by one thread at a time.
struct SavedModel {
  using Read = std::function<void(const std::string& kind, const std::string& name, int64_t begin, at::Tensor out)>;

  std::string folder;                           ///< the step folder, or the Hugging Face folder
  std::optional<Manifest> manifest;             ///< of a checkpoint of ours
  Config config;                                ///< of a Hugging Face folder: model and sequence length, else defaults
  std::vector<SavedTensor> tensors;             ///< whole parameters and buffers, of every kind
  Read read;                                    ///< elements [begin, begin + out.numel()) of one of `tensors`
  std::function<void(const Progress&)> verify;  ///< every byte; empty: a Hugging Face folder, which has no hashes

  ParamSource weights() const;
  /// State of stages that no gradient trains, such as the bias of experts.
  std::vector<WholeParam> buffers() const;
  /// Weights and buffers, whose names differ.
  ParamSource values() const;
  /// Of the weights in a checkpoint: f64 where they are saved as such, else f32.
  safetensors::Dtype master_dtype() const;
};

/// Opens a Hugging Face folder, a step folder, or the newest checkpoint of a run's folder or of its checkpoints/.
/// Throws CheckpointError, which says what the path is instead, where it is none of these, or damaged, and as
/// read_manifest_config() does. What that leaves out is logged as a warning.
SavedModel open_model(const std::string& path, UnknownKeys unknown = UnknownKeys::refused);

/// The weights of a step folder as initial values of the model `wanted`. Throws ConfigError, naming keys, where they
/// are those of another model; keys that only matter in training may differ. Otherwise as open_model().
ParamSource checkpoint_source(const std::string& step_folder, const ModelConfig& wanted, UnknownKeys unknown);

}  // namespace olmoe
