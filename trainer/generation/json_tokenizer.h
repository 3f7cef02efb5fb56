#pragma once
#include <string>
#include <vector>

#include "core/process/piped_process.h"
#include "trainer/generation/text_codec.h"

namespace olmoe {

/// A Hugging Face tokenizer.json, run by the Python package `tokenizers` in scripts/token_pipe.py: a child process that
/// answers lines of JSON.
class JsonTokenizer : public TextCodec {
 public:
  /// `command`: what starts the child; token_pipe_command() of a tokenizer.json, else a test's. Throws ConfigError with
  /// what the child says where it cannot read the file, or the package is missing.
  explicit JsonTokenizer(const std::vector<std::string>& command);
  std::vector<int64_t> encode(const std::string& text) override;
  std::string decode(size_t text, int64_t id) override;
  std::string finish(size_t text) override;
  int64_t num_ids() const override { return num_ids_; }
  std::optional<int64_t> end_id() const override { return end_id_; }

 private:
  PipedProcess process_;
  int64_t num_ids_ = 0;
  std::optional<int64_t> end_id_;
};

/// The Python of the environment variable PYTHON, else python3, with scripts/token_pipe.py of the folder above that of
/// this program, or of OLMOE_SCRIPTS. Throws ConfigError where the script is in neither.
std::vector<std::string> token_pipe_command(const std::string& tokenizer);

/// The codec of --tokenizer: `bytes`, a tokenizer.json, or a folder with one. Throws ConfigError for others.
std::unique_ptr<TextCodec> make_codec(const std::string& tokenizer);

}  // namespace olmoe
