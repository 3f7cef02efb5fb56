#pragma once
#include <array>
#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

/// YAML into typed structs. A struct lists its fields once,
///   template <class V> void fields(V& v) { v("lr", lr, "peak learning rate"); ... }
/// and the list serves reading, overriding, writing, documenting and comparing. Values: bool, int64_t, double,
/// std::string, enums with EnumNames, std::vector and std::optional of these, structs with fields.
namespace olmoe {

/// The words of an enum, in the order of its values 0, 1, 2, ...
template <class E>
struct EnumNames;

// clang-format off
template <class T> concept ConfigStruct = requires(T& t, void (*v)(...)) { requires std::is_class_v<T>; &T::template fields<decltype(v)>; };
// clang-format on

}  // namespace olmoe
