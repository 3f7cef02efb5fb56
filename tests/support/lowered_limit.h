#pragma once
#include <sys/resource.h>

#include "core/error.h"

namespace olmoe::test {

/// A soft limit of this process, lowered for a while.
class LoweredLimit {
 public:
  LoweredLimit(decltype(RLIMIT_FSIZE) resource, rlim_t value) : resource_(resource) {
    ENSURE(getrlimit(resource, &before_) == 0, "no limit to lower");
    rlimit lowered = before_;
    lowered.rlim_cur = value;
    ENSURE(setrlimit(resource, &lowered) == 0, "a limit cannot be lowered");
  }
  ~LoweredLimit() { setrlimit(resource_, &before_); }
  LoweredLimit(const LoweredLimit&) = delete;
  LoweredLimit& operator=(const LoweredLimit&) = delete;

 private:
  decltype(RLIMIT_FSIZE) resource_;
  rlimit before_{};
};

}  // namespace olmoe::test
