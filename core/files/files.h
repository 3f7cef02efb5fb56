#pragma once
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

/// Whole files. All functions throw FileError with the path and the system's reason.
namespace olmoe {

/// The bytes of a regular file. Throws if there are more than `limit_bytes`.
std::string read_text(const std::string& path, int64_t limit_bytes = std::numeric_limits<int64_t>::max());

/// XXH3 of 128 bits over a whole file, as Hasher::hex() writes it.
std::string hash_file(const std::string& path);

/// Replaces a file atomically: readers see the old text or the new, even after a power loss. Writes `path`.tmp, fsyncs
/// it, renames it, fsyncs the folder. Removes `path`.tmp if it fails.
void write_text_atomic(const std::string& path, std::string_view text);

/// `folder`, or its nearest ancestor that exists: what would be created below it is on the same file system. Does not
/// throw; a folder that cannot be accessed counts as missing.
std::string existing_folder(const std::string& folder);
/// `path`.old-1, or the first of .old-2, .old-3, ... that does not exist: a name to move an existing file away to.
/// `mark` takes the place of "old".
std::string unused_name(const std::string& path, std::string_view mark = "old");

/// Makes created, renamed and removed names of a folder durable.
void fsync_folder(const std::string& path);

}  // namespace olmoe
