#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace olmoe {

/// Kinds of file that people take for another: pointers, archives, and what holds tensors or tables.
enum class FileKind {
  other,
  git_lfs_pointer,
  git_annex_pointer,
  web_page,
  gzip,
  zstandard,
  xz,
  bzip2,
  zip,
  pickle,
  gguf,
  hdf5,
  numpy,
  parquet,
  arrow,
  megatron_index
};

/// By how a file begins; `other` where that is not known.
FileKind file_kind(std::span<const std::byte> begin);

/// What a file in a model's folder is that is no part of a model, and what to do: "a Git LFS pointer, ...". Empty: not
/// known.
std::string recognize_file(std::span<const std::byte> begin);

}  // namespace olmoe
