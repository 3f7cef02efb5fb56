#pragma once
#include <functional>
#include <string>

namespace olmoe {

/// Copies weights and buffers of the checkpoint in `step_folder` to `weights_folder`/step_NNNNNNNNN: a checkpoint of
/// weights alone, with the same step, config and names of files. They are verified while they are read, piece by piece.
/// It is there complete or not at all. One that is there already, with the same config, stays; anything else of that
/// name is renamed to NAME.old-1. `give_up` is asked between pieces: true ends the copy by an Error. Throws Error,
/// naming the file, where the checkpoint is damaged or cannot be read, and Error or std::filesystem::filesystem_error
/// where the copy cannot be written.
void keep_weights(const std::string& step_folder, const std::string& weights_folder,
                  const std::function<bool()>& give_up);

}  // namespace olmoe
