// Files compressed by gzip, as document tables are.
#pragma once
#include <zlib.h>

#include <string>

#include "core/error.h"

namespace olmoe::test {

inline void write_gzip(const std::string& path, const std::string& text) {
  const gzFile file = ::gzopen(path.c_str(), "wb");
  ENSURE(file != nullptr, "cannot write {}", path);
  const auto size = static_cast<unsigned>(text.size());
  const bool written = ::gzwrite(file, text.data(), size) == static_cast<int>(size) || size == 0;
  ENSURE(::gzclose(file) == Z_OK && written, "cannot write {}", path);
}

}  // namespace olmoe::test
