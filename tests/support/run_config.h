// A config with every kind of value, for the tests of the config reader.
#pragma once
#include <string>
#include <vector>

#include "core/reader/config_reader.h"

namespace olmoe::sample {
enum class Colour { red, dark_blue };
}
template <>
struct olmoe::EnumNames<olmoe::sample::Colour> {
  static constexpr std::array names{"red", "dark_blue"};
};

namespace olmoe::sample {

struct Source {
  std::string path;
  double weight = 1;
  bool operator==(const Source&) const = default;
  template <class V>
  void fields(V& v) {
    v.required("path", path, "a token file");
    v("weight", weight, "share | of the mixture");
  }
};

struct ModelConfig {
  int64_t d_model = 64;
  int64_t top_k = 2;
  bool use_bias = false;
  std::optional<double> clip;
  bool operator==(const ModelConfig&) const = default;
  template <class V>
  void fields(V& v) {
    v("d_model", d_model, "model width D");
    v("top_k", top_k, "experts for each token");
    v("use_bias", use_bias, "adds a bias");
    v("clip", clip, "largest gradient norm");
  }
};

struct RunConfig {
  int64_t steps = 0;
  double lr = 4e-4;
  Colour colour = Colour::red;
  std::string name = "run";
  std::vector<double> betas{0.9, 0.95};
  std::vector<std::string> paths;
  std::vector<Source> sources;
  std::optional<std::string> note;
  ModelConfig model;
  bool operator==(const RunConfig&) const = default;
  template <class V>
  void fields(V& v) {
    v.required("steps", steps, "optimizer steps");
    v("lr", lr, "peak learning rate");
    v("colour", colour, "of the curve");
    v("name", name, "of the run");
    v("betas", betas, "of Adam");
    v("paths", paths, "token files");
    v("sources", sources, "the mixture");
    v("note", note, "free text");
    v("model", model, "the model");
  }
};

inline RunConfig read(const std::string& text, const std::vector<std::string>& overrides = {}) {
  return read_config_text<RunConfig>(text, "x.yaml", overrides);
}

inline std::string problems(const std::string& text, const std::vector<std::string>& overrides = {}) {
  try {
    read(text, overrides);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no problem";
}

}  // namespace olmoe::sample
