#pragma once
#include <cstdint>
#include <memory>
#include <string>

namespace olmoe {

/// While it lives, counts LibTorch's warnings in this thread that contain `text`, and keeps them to itself. Others are
/// told as before.
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
