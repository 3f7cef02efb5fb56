#pragma once
#include <string>

#include "trainer/checkpoint/checkpoint_manifest.h"
#include "trainer/config/config.h"

namespace olmoe {

/// The config that a checkpoint was written with, in today's keys.
struct ManifestConfig {
  Config config;
  std::string left_out;  ///< a warning that lists what was ignored, with values; empty: nothing was
};

/// Reads the config of the checkpoint in `folder`. Throws one CheckpointError with both versions, everything in it that
/// this one cannot read, and what to do: keys and words that it does not know, unless they are to be ignored; words of
/// keys that must not change (is_fixed_key) in any case, and so keys that are missing and values out of range.
ManifestConfig read_manifest_config(const Manifest& manifest, const std::string& folder, UnknownKeys unknown);

}  // namespace olmoe
