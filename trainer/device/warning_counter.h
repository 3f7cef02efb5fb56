#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace olmoe {

/// Counts and drops LibTorch's warnings in this thread that contain `text` while it lives. Others are reported as
/// before.
class WarningCounter {
 public:
  explicit WarningCounter(std::string text);
  ~WarningCounter();
  WarningCounter(const WarningCounter&) = delete;
  WarningCounter& operator=(const WarningCounter&) = delete;
  int64_t count() const;

 private:
  class Handler;
  std::unique_ptr<Handler> handler_;
};

}  // namespace olmoe
