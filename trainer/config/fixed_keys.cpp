#include "trainer/config/fixed_keys.h"

#include <algorithm>
#include <array>

namespace olmoe {
namespace {

constexpr std::array<std::string_view, 6> kFixed{
    "run.seed",   "train.global_batch_size", "train.batch_size_warmup", "data.sequence_length", "data.document_mask",
    "data.eos_id"};
/// Of the model.
constexpr std::array<std::string_view, 10> kFree{"model.load_balancing_weight",
                                                 "model.load_balancing_granularity",
                                                 "model.load_balancing_over_layers",
                                                 "model.balancing_bias_rate",
                                                 "model.router_z_weight",
                                                 "model.loss_chunk",
                                                 "model.init_std",
                                                 "model.init_cutoff",
                                                 "model.init",
                                                 "model.output_z_weight"};

}  // namespace

bool is_fixed_key(std::string_view key) {
  return key.starts_with("model.") ? std::ranges::find(kFree, key) == kFree.end()
                                   : std::ranges::find(kFixed, key) != kFixed.end();
}

}  // namespace olmoe
