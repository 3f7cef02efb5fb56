#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

/// Whole files. All throw FileError with the path and the system's reason.
namespace olmoe {

/// The bytes of a regular file; throws if they are more than `limit_bytes`.
std::string read_text(const std::string& path, int64_t limit_bytes = std::numeric_limits<int64_t>::max());

/// XXH3's 128 bits over a whole file, as the Hasher gives them.
std::string hash_file(const std::string& path);

/// Replaces a file: whoever reads it, even after a power loss, sees the old text or the new, never
/// a mixture. Writes `path`.tmp, fsyncs it, renames it, fsyncs the folder. Where it fails it leaves no `path`.tmp.
void write_text_atomic(const std::string& path, std::string_view text);

/// `folder`, or the nearest one above it that is there: what would be made below it lies on its file
/// system. Never throws on account of a folder that cannot be looked at, which is not there.
std::string existing_folder(const std::string& folder);
/// `path`.old-1, or the first of .old-2, .old-3, ... that is not there: a name for what must make way and be kept.
std::string unused_name(const std::string& path);

/// Makes names created, renamed or removed in a folder survive a power loss.
void fsync_folder(const std::string& path);

}  // namespace olmoe
