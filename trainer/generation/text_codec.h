#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace olmoe {

/// Text to token ids and back. Texts that are decoded at the same time are numbered.
class TextCodec {
 public:
  virtual ~TextCodec() = default;
  virtual std::vector<int64_t> encode(const std::string& text) = 0;
  /// The next id of a text: what can be printed now. Bytes of a character that is not whole yet are held back.
  virtual std::string decode(size_t text, int64_t id) = 0;
  /// What was held back of a text that has ended; its number is free again.
  virtual std::string finish(size_t text) = 0;
  /// The largest id and 1.
  virtual int64_t num_ids() const = 0;
  /// The id that ends a document, if it has one.
  virtual std::optional<int64_t> end_id() const = 0;
};

/// Ids are byte values, and 256 ends a document, as scripts/tokenize.py has them. Bytes that are no UTF-8 are printed
/// as U+FFFD, ids that are no bytes as <|id|>.
class ByteCodec : public TextCodec {
 public:
  std::vector<int64_t> encode(const std::string& text) override;
  std::string decode(size_t text, int64_t id) override;
  std::string finish(size_t text) override;
  int64_t num_ids() const override { return 257; }
  std::optional<int64_t> end_id() const override { return 256; }

 private:
  std::map<size_t, std::string> held_;
};

}  // namespace olmoe
