#include "core/files/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include "core/error.h"
#include "core/files/file_descriptor.h"
#include "core/hash.h"

namespace olmoe {

std::string read_text(const std::string& path, int64_t limit_bytes) {
  const FileDescriptor file(path,
                            O_RDONLY | O_NONBLOCK);  // do not block on a pipe without a writer
  if (!file.is_regular()) throw FileError(fmt::format("cannot read '{}': not a regular file", path));
  const auto check = [&](int64_t bytes) {
    if (bytes > limit_bytes) throw FileError(fmt::format("cannot read '{}': over {} bytes", path, limit_bytes));
  };
  check(file.size_bytes());
  std::string text;
  std::array<std::byte, 1 << 16> buffer;
  while (const size_t count = file.read_some(buffer)) {
    text.append(reinterpret_cast<const char*>(buffer.data()), count);
    check(std::ssize(text));  // files that grow, or that the system makes up, have more than their size
  }
  return text;
}

std::string hash_file(const std::string& path) {
  const FileDescriptor file(path, O_RDONLY);
  std::vector<std::byte> buffer(1 << 20);
  Hasher hasher;
  while (const size_t count = file.read_some(buffer)) hasher.update({buffer.data(), count});
  return hasher.hex();
}

void write_text_atomic(const std::string& path, std::string_view text) {
  const std::string temporary = path + ".tmp";
  FileDescriptor file(temporary, O_WRONLY | O_CREAT | O_TRUNC);
  try {
    file.write_all(std::as_bytes(std::span(text)));
    file.sync();
    file.close();
    if (std::rename(temporary.c_str(), path.c_str()) != 0)
      throw FileError(fmt::format("cannot rename '{}' to '{}': {}", temporary, path, std::strerror(errno)));
  } catch (const Error&) {
    ::unlink(temporary.c_str());
    throw;
  }
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  fsync_folder(folder.empty() ? "." : folder.string());
}

std::string existing_folder(const std::string& folder) {
  std::error_code unknown;
  auto there = std::filesystem::absolute(folder);
  while (!std::filesystem::exists(there, unknown) && there.has_relative_path()) there = there.parent_path();
  return there.string();
}

std::string unused_name(const std::string& path, std::string_view mark) {
  for (int n = 1;; ++n) {
    auto name = fmt::format("{}.{}-{}", path, mark, n);
    if (!std::filesystem::exists(std::filesystem::symlink_status(name))) return name;
  }
}

void fsync_folder(const std::string& path) { FileDescriptor(path, O_RDONLY | O_DIRECTORY).sync(); }

}  // namespace olmoe
