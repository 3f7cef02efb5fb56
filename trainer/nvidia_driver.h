#pragma once
#include <string>

#include "trainer/device_facts.h"

namespace olmoe {

/// Name and clock of a CUDA device, asked of the driver's own libraries, which are opened when this is called: no build
/// needs CUDA for it. What they do not tell stays empty.
struct DriverFacts {
  std::string name;
  std::optional<Clock> clock;  ///< of the multiprocessors
};
DriverFacts ask_nvidia_driver(int device_index);

}  // namespace olmoe
