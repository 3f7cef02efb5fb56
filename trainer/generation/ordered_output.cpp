#include "trainer/generation/ordered_output.h"

#include <utility>

namespace olmoe {

OrderedOutput::OrderedOutput(std::vector<std::string> beginnings, Write write)
    : write_(std::move(write)), waiting_(std::move(beginnings)), ended_(waiting_.size()) {
  flush();
}

void OrderedOutput::add(size_t text, const std::string& part) {
  waiting_.at(text) += part;
  flush();
}

void OrderedOutput::end(size_t text) {
  ended_.at(text) = true;
  flush();
}

void OrderedOutput::flush() {
  for (; current_ < waiting_.size(); ++current_) {
    if (auto text = std::exchange(waiting_[current_], {}); !text.empty()) write_(text);
    if (!ended_[current_]) return;
    write_("\n");
  }
}

}  // namespace olmoe
