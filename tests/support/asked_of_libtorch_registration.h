// Shows LibTorch's dispatcher to AskedOfLibTorch: in one source of a program alone.
#pragma once
#include <torch/library.h>

#include "support/asked_of_libtorch.h"

TORCH_LIBRARY_IMPL(_, TESTING_ONLY_GenericMode, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&olmoe::test::AskedOfLibTorch::pass>());
}
