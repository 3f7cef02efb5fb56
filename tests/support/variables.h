#pragma once
#include <map>
#include <string>

#include "parallel/collectives/rendezvous.h"

namespace olmoe {

using Variables = std::map<std::string, std::string>;

/// An environment of these variables alone, which outlive it.
inline Environment environment(const Variables& variables) {
  return [&variables](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? nullptr : found->second.c_str();
  };
}

}  // namespace olmoe
