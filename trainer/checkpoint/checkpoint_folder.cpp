#include "trainer/checkpoint/checkpoint_folder.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <string_view>

#include "core/error.h"
#include "core/files/files.h"
#include "core/log.h"

namespace olmoe {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kStepPrefix = "step_";
constexpr std::string_view kTemporaryMark = ".tmp_";  // before a step's name
constexpr const char* kManifest = "manifest.json";
constexpr std::string_view kDamaged = "damaged", kAbandoned = "abandoned";

std::optional<int64_t> parse_step(const std::string& name) {
  if (!name.starts_with(kStepPrefix) || name.size() != kStepPrefix.size() + 9) return {};
  uint32_t step = 0;  // unsigned: from_chars would take a minus sign as well
  const auto* end = name.data() + name.size();
  const auto result = std::from_chars(name.data() + kStepPrefix.size(), end, step);
  return result.ec == std::errc() && result.ptr == end ? std::optional<int64_t>(step) : std::nullopt;
}

bool is_complete(const fs::path& step_folder) { return fs::exists(step_folder / kManifest); }

bool is_link(const fs::path& path) { return fs::symlink_status(path).type() == fs::file_type::symlink; }

/// True for the names of the files that a save writes to a step's folder.
bool is_of_save(const std::string& name) {
  return name == kManifest || name == "manifest.json.tmp" ||
         (name.starts_with("shard_") && name.ends_with(".safetensors"));
}

/// False where it is still there.
bool remove_or_warn(const fs::path& path) {
  std::error_code error;  // a leftover file only costs space
  fs::remove(path, error);
  if (error) log::warn("cannot remove {}: {}", path.string(), error.message());
  return !error;
}

bool is_leftover(const fs::directory_entry& entry) {
  auto name = entry.path().filename().string();
  const bool temporary = name.starts_with(kTemporaryMark);
  if (temporary) name.erase(0, kTemporaryMark.size());
  if (!parse_step(name) || entry.is_symlink() || !entry.is_directory()) return false;
  return temporary || !is_complete(entry.path());
}

}  // namespace

std::string step_name(int64_t step) { return fmt::format("{}{:09}", kStepPrefix, step); }

std::string temporary_name(int64_t step) { return std::string(kTemporaryMark) + step_name(step); }

std::string shard_name(int rank) { return fmt::format("shard_{:05}.safetensors", rank); }

std::vector<int64_t> complete_steps(const std::string& folder) {
  std::vector<int64_t> steps;
  // The status of the link itself, if it is one: a link to a disk that is not mounted is not a missing folder.
  if (fs::symlink_status(folder).type() == fs::file_type::not_found) return steps;
  for (const auto& entry : fs::directory_iterator(folder))
    if (const auto step = parse_step(entry.path().filename()); step && is_complete(entry.path()))
      steps.push_back(*step);
  std::sort(steps.begin(), steps.end());
  return steps;
}

std::string set_aside(const std::string& step_folder, SetAside why) {
  const auto name = unused_name(step_folder, why == SetAside::damaged ? kDamaged : kAbandoned);
  fs::rename(step_folder, name);
  return name;
}

bool has_damaged(const std::string& folder) {
  std::error_code unknown;
  for (const auto& entry : fs::directory_iterator(folder, unknown)) {
    const auto name = entry.path().filename().string();
    const auto dot = name.find(fmt::format(".{}-", kDamaged));
    if (dot != std::string::npos && parse_step(name.substr(0, dot))) return true;
  }
  return false;
}

void remove_checkpoint(const std::string& step_folder) {
  const fs::path folder = step_folder;
  if (is_link(folder)) return;
  std::vector<fs::path> ours;
  bool others = false;
  for (const auto& entry : fs::directory_iterator(folder))
    if (is_of_save(entry.path().filename()) && !entry.is_directory())
      ours.push_back(entry.path());
    else
      others = true;
  if (others && !ours.empty())
    log::warn("{} has files that no save wrote: they stay, the checkpoint is removed", step_folder);
  if (!remove_or_warn(folder / kManifest)) return;  // without its files it would be a damaged checkpoint
  for (const auto& path : ours) remove_or_warn(path);
  if (!others) remove_or_warn(folder);
}

std::optional<FileLock> lock_against_removal(const std::string& step_folder) {
  const auto manifest = fmt::format("{}/{}", step_folder, kManifest);
  try {
    auto lock = FileLock::try_lock(manifest, FileLock::Kind::shared);
    if (!lock || !fs::exists(manifest))
      throw CheckpointError(fmt::format("{} is being removed by the run that saved it", step_folder));
    return lock;
  } catch (const FileError& error) {
    log::warn("{}. The run that saved it may remove it while it is read", error.what());
    return {};
  }
}

bool remove_unread(const std::string& step_folder) {
  std::optional<FileLock> lock;
  try {
    lock = FileLock::try_lock(fmt::format("{}/{}", step_folder, kManifest), FileLock::Kind::exclusive);
    if (!lock) return false;
  } catch (const FileError&) {
    lock.reset();  // a file system without locks, or a file that may not be written: nothing can protect it
  }
  remove_checkpoint(step_folder);
  return true;
}

void remove_leftovers(const std::string& folder) {
  try {
    std::vector<std::string> found;  // a folder must not change during the iteration
    for (const auto& entry : fs::directory_iterator(folder))
      if (is_leftover(entry)) found.push_back(entry.path().string());
    for (const auto& path : found) remove_checkpoint(path);
  } catch (const std::exception& error) {
    log::warn("cannot remove what interrupted saves left in {}: {}", folder, error.what());
  }
}

void remove_leftover(const std::string& temporary_folder) {
  try {
    if (fs::is_directory(fs::symlink_status(temporary_folder))) remove_checkpoint(temporary_folder);
  } catch (const std::exception& error) {
    log::warn("cannot remove what a failed save left in {}: {}", temporary_folder, error.what());
  }
}

void make_way(const std::string& step_folder) {
  if (fs::is_directory(fs::symlink_status(step_folder))) remove_checkpoint(step_folder);
  if (fs::symlink_status(step_folder).type() == fs::file_type::not_found) return;
  const auto kept = unused_name(step_folder);
  fs::rename(step_folder, kept);
  log::warn("{} is not a checkpoint of this run and has the name of one: renamed to {}", step_folder, kept);
}

}  // namespace olmoe
