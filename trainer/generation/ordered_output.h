#pragma once
#include <functional>
#include <string>
#include <vector>

namespace olmoe {

/// Texts that are generated in turns, printed one after another: the first that has not ended as it comes, what others
/// have so far once it is their turn.
class OrderedOutput {
 public:
  using Write = std::function<void(const std::string&)>;
  /// `beginnings`: what is written before each text.
  OrderedOutput(std::vector<std::string> beginnings, Write write);
  void add(size_t text, const std::string& part);
  void end(size_t text);

 private:
  void flush();

  Write write_;
  std::vector<std::string> waiting_;
  std::vector<bool> ended_;
  size_t current_ = 0;
};

}  // namespace olmoe
