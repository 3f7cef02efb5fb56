#pragma once

namespace olmoe {

/// What a parameter is in the model, whatever its name and shape: initial values and weight decay go by it.
enum class ParamRole { matrix, norm, embedding, router };

}  // namespace olmoe
