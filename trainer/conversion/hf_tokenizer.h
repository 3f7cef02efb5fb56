#pragma once
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "trainer/conversion/hf_config.h"

namespace olmoe {

/// A tokenizer that goes into an exported folder, with the ids of its special tokens: what AutoTokenizer loads.
class HfTokenizer {
 public:
  /// `path`: a tokenizer.json, or a folder with one and perhaps tokenizer_config.json and special_tokens_map.json. An
  /// `eos_id` goes before what these say. Where no token fills, the one that ends texts does. Throws ConfigError for
  /// files that are not a tokenizer's, and for ids that it does not have.
  HfTokenizer(const std::string& path, std::optional<int64_t> eos_id);

  const SpecialIds& ids() const { return ids_; }
  /// The highest id and one.
  int64_t num_ids() const;
  /// Writes tokenizer.json, tokenizer_config.json (a PreTrainedTokenizerFast where there is none to copy) and, where
  /// there is one, special_tokens_map.json.
  void write(const std::string& folder, int64_t max_positions) const;

 private:
  std::optional<int64_t> special_id(const char* key) const;
  std::optional<int64_t> id_of(const std::string& token) const;
  std::optional<std::string> token_of(std::optional<int64_t> id) const;

  std::string path_, text_;
  std::map<std::string, int64_t> vocabulary_;
  nlohmann::json config_, specials_;  ///< null: not there
  SpecialIds ids_;
};

}  // namespace olmoe
