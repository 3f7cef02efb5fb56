#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace olmoe {

/// What a file is that was taken for another kind, by how it begins, and what to do: "a Git LFS pointer, ...". Empty:
/// not known. Knows what people find in a model's folder: Git LFS pointers, web pages, archives, PyTorch, GGUF, HDF5.
std::string recognize_file(std::span<const std::byte> begin);

}  // namespace olmoe
