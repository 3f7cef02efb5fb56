#pragma once
#include <c10/util/Exception.h>

#define C10_CUDA_CHECK(CALL) TORCH_CHECK((CALL) == 0, "CUDA: " #CALL)
#define C10_CUDA_KERNEL_LAUNCH_CHECK() static_cast<void>(0)  // a launch that is refused throws
