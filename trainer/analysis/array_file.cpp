#include "trainer/analysis/array_file.h"

#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"
#include "core/files/safetensors.h"

namespace olmoe {
namespace {

safetensors::Dtype stored_dtype(const NamedArray& array) {
  switch (array.values.scalar_type()) {
    case at::kLong:
      return safetensors::Dtype::i64;
    case at::kInt:
      return safetensors::Dtype::i32;
    case at::kFloat:
      return safetensors::Dtype::f32;
    case at::kDouble:
      return safetensors::Dtype::f64;
    default:
      throw Error(fmt::format("array {} is {}", array.name, c10::toString(array.values.scalar_type())));
  }
}

}  // namespace

void write_arrays(const std::string& path, std::span<const NamedArray> arrays,
                  const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> contiguous;  // alive while the items are written
  std::vector<safetensors::Item> items;
  for (const auto& array : arrays) {
    const auto& values = contiguous.emplace_back(array.values.contiguous());
    items.push_back({.name = array.name,
                     .dtype = stored_dtype(array),
                     .shape = values.sizes().vec(),
                     .bytes = {static_cast<const std::byte*>(values.const_data_ptr()), values.nbytes()}});
  }
  const auto unfinished = path + ".tmp";
  safetensors::write(unfinished, std::move(items), metadata);
  std::error_code failed;
  std::filesystem::rename(unfinished, path, failed);
  if (failed) throw Error(fmt::format("cannot rename {} to {}: {}", unfinished, path, failed.message()));
  fsync_folder(existing_folder(std::filesystem::absolute(path).parent_path().string()));
}

}  // namespace olmoe
