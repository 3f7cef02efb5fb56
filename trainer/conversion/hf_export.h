#pragma once
#include <cstdint>
#include <string>

#include "core/files/safetensors.h"
#include "trainer/conversion/hf_config.h"
#include "trainer/conversion/hf_form.h"
#include "trainer/conversion/progress.h"

namespace olmoe {

struct HfExport {
  safetensors::Dtype dtype = safetensors::Dtype::f32;  ///< f32, bf16 or f16; a bias of experts is f32 in all
  int64_t max_shard_bytes = 5'000'000'000;             ///< of tensors in a file; one that is larger has a file alone
  int64_t max_positions = 4096;
  SpecialIds ids = {};
};

/// Bytes of the weights that write_hf_model() writes.
int64_t hf_weight_bytes(const HfForm& form, safetensors::Dtype dtype);

/// Writes config.json, generation_config.json and the weights to an existing folder: model.safetensors, or where they
/// are more than max_shard_bytes, model-00001-of-0000N.safetensors, ... and model.safetensors.index.json. Experts have
/// a tensor each, as save_pretrained writes them. Throws Error with ExitCode::non_finite for a weight that is not
/// finite, and ConfigError for one that float16 cannot hold.
void write_hf_model(const std::string& folder, const HfForm& form, const HfExport& options, const Progress& progress);

}  // namespace olmoe
