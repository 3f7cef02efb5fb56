// Replaces nccl_communicator.cpp in a build for CPUs.
#include "core/error.h"
#include "parallel/collectives/nccl_communicator.h"

namespace olmoe {

std::unique_ptr<Communicator> make_nccl_communicator(std::unique_ptr<Communicator>, c10::Device device) {
  throw ConfigError(
      fmt::format("this build has no NCCL, which joins ranks on {}: configure with -DOLMOE_CUDA=ON, or train on cpu",
                  device.str()));
}

}  // namespace olmoe
