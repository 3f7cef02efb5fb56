#include "trainer/device/warning_counter.h"

#include <c10/util/Exception.h>

#include <utility>

namespace olmoe {

class WarningCounter::Handler final : public c10::WarningHandler {
 public:
  explicit Handler(std::string text)
      : text_(std::move(text)), others_(c10::WarningUtils::get_warning_handler()), guard_(this) {}
  void process(const c10::Warning& warning) override {
    if (warning.msg().find(text_) == std::string::npos) return others_->process(warning);
    ++count_;
  }
  int64_t count() const { return count_; }

 private:
  std::string text_;
  c10::WarningHandler* others_;
  int64_t count_ = 0;
  c10::WarningUtils::WarningHandlerGuard guard_;  // last: it makes this handler the thread's
};

WarningCounter::WarningCounter(std::string text) : handler_(std::make_unique<Handler>(std::move(text))) {}
WarningCounter::~WarningCounter() = default;
int64_t WarningCounter::count() const { return handler_->count(); }

}  // namespace olmoe
