#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace olmoe {

/// Kinds of file that are mistaken for others: pointers, archives, containers of tensors or tables.
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

/// The kind of a file by its first bytes; `other` if unknown.
FileKind file_kind(std::span<const std::byte> begin);

/// Describes a file that was taken for part of a model by its first bytes, with what to do: "a Git LFS pointer, ...".
/// Empty if unknown.
std::string recognize_file(std::span<const std::byte> begin);

}  // namespace olmoe
