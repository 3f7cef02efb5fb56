#include "trainer/checkpoint/disk_errors.h"

#include <filesystem>

#include "core/error.h"
#include "core/files/files.h"
#include "core/text.h"

namespace olmoe {

std::string disk_advice(const std::string& folder, int64_t needed_bytes) {
  std::error_code unknown;
  const auto space = std::filesystem::space(existing_folder(folder), unknown);
  std::string out;
  if (needed_bytes > 0) out += fmt::format("{} are needed there", describe_size(needed_bytes));
  if (!unknown)
    out += fmt::format("{}{} are free in {}", out.empty() ? "" : ", ",
                       describe_size(static_cast<int64_t>(space.available)), folder);
  if (!out.empty()) out += ". ";
  return out +
         "Make room (df, quota, ulimit -f), permit writing there, or look for errors of the disk (dmesg), and start "
         "the "
         "same command again";
}

void write_to_disk(const std::string& folder, int64_t needed_bytes, const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    throw CheckpointError(fmt::format("{}. {}", error.what(), disk_advice(folder, needed_bytes)));
  }
}

}  // namespace olmoe
