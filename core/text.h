#pragma once
#include <cstdint>
#include <string>

/// Numbers as text for people.
namespace olmoe {

/// 6919161856 -> "6,919,161,856".
std::string grouped(int64_t n);
/// "1 file", "3 files".
std::string counted(int64_t n, const std::string& thing);
/// Bytes in MiB, or from 1 GiB on in GiB: "1.50 GiB".
std::string describe_size(int64_t size_bytes);

}  // namespace olmoe
