#pragma once
#include "model/config.h"
#include "model/init.h"
#include "trainer/conversion/hf_classes.h"

namespace olmoe {

/// A model as a class of Hugging Face's transformers computes it.
struct HfForm {
  const HfClass* hf;    ///< one of hf_classes()
  ModelConfig config;   ///< the dense twin may be a model with one expert
  ParamSource weights;  ///< and buffers, by the names of `config`
};

/// The first class that computes what the model computes. The dense twin without QK-norm is LlamaForCausalLM, else a
/// model with one expert; experts without a bias have one of zeros, where the class has it; shared
/// ones (model.share_experts) are those of each block. `weights`: with buffers, in
/// the names of `config`. Where no class computes the model, throws ConfigError with every key that keeps it from the
/// class that lacks the fewest.
HfForm hf_form(const ModelConfig& config, const ParamSource& weights);

}  // namespace olmoe
