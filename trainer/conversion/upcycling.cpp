#include "trainer/conversion/upcycling.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/where.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <string_view>

#include "core/error.h"
#include "core/random.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

constexpr std::string_view kRouter = ".moe.router.", kExperts = ".moe.experts.", kDown = ".down.";

bool has(const std::string& name, std::string_view part) { return name.find(part) != std::string::npos; }

/// Hidden width of the feed-forward that is copied.
int64_t dense_width(const ModelConfig& source) {
  return source.has_experts() ? source.expert_width : source.dense_hidden();
}

/// The parameters of the model with experts.
class Upcycled {
 public:
  Upcycled(const ModelConfig& source, ParamSource weights, const Upcycling& options)
      : source_(source),
        weights_(std::move(weights)),
        options_(options),
        model_(upcycled_config(source, options)),
        random_(random_init(model_, options.seed)),
        pieces_(dense_width(source) / model_.expert_width) {}

  void operator()(const std::string& name, int64_t begin, at::Tensor out) const {
    auto flat = out.view(-1);
    if (has(name, kRouter)) return read_router(name, begin, flat);
    if (!has(name, kExperts)) return weights_(name, begin, flat);
    has(name, kDown) ? read_down(name, begin, flat) : read_gate_up(name, begin, flat);
    if (options_.noise > 0) add_noise(name, begin, flat);
  }

 private:
  /// Expert e is piece e mod G of copy e / G.
  int64_t piece_of(int64_t expert) const { return expert % pieces_; }

  /// The source's name of a parameter of the experts.
  std::string source_name(std::string name) const {
    return source_.has_experts() ? name : name.replace(name.find(kExperts), kExperts.size(), ".ffn.");
  }

  /// Draws the elements anew that noise takes: which, depends on (seed, name, index) alone.
  void add_noise(const std::string& name, int64_t begin, const at::Tensor& flat) const {
    const auto drawn = at::empty_like(flat), is_drawn = at::empty({flat.numel()}, at::kBool);
    random_(name, begin, drawn);
    const RandomStream stream(options_.seed, "chosen:" + name);
    bool* const chosen = is_drawn.mutable_data_ptr<bool>();
    at::parallel_for(0, flat.numel(), 1 << 14, [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i)
        chosen[i] = stream.uniform(static_cast<uint64_t>(begin + i)) < options_.noise;
    });
    flat.copy_(at::where(is_drawn, drawn, flat));
  }

  /// [E, D]: the row of an expert is the random row of its copy.
  void read_router(const std::string& name, int64_t begin, const at::Tensor& flat) const {
    const int64_t d = model_.d_model, end = begin + flat.numel();
    for (int64_t at = begin; at < end;) {
      const int64_t expert = at / d, column = at % d, count = std::min(d - column, end - at);
      random_(name, expert / pieces_ * d + column, flat.narrow(0, at - begin, count));
      at += count;
    }
  }

  /// [E, 2F, D], gate rows before up rows, from [2H, D]: runs of rows.
  void read_gate_up(const std::string& name, int64_t begin, const at::Tensor& flat) const {
    const int64_t half = model_.expert_width * model_.d_model, end = begin + flat.numel();
    for (int64_t at = begin; at < end;) {
      const int64_t halves = at / half, expert = halves / 2, within = at % half;
      const int64_t count = std::min(half - within, end - at);
      const int64_t from = (halves % 2 * pieces_ + piece_of(expert)) * half + within;
      weights_(source_name(name), from, flat.narrow(0, at - begin, count));
      at += count;
    }
  }

  /// [E, D, F] from [D, H]: columns of whole rows, which are read some at a time. Scaled by G, as the scores of the G
  /// pieces of a copy share what one expert would have.
  void read_down(const std::string& name, int64_t begin, const at::Tensor& flat) const {
    const int64_t d = model_.d_model, f = model_.expert_width, h = pieces_ * f, end = begin + flat.numel();
    const int64_t rows_read = std::max<int64_t>(1, kPieceElements / h);
    for (int64_t at = begin; at < end;) {
      const int64_t row = at / f, expert = row / d, first = at % f;
      const int64_t rows = std::min({rows_read, d - row % d, (end - 1) / f - row + 1});
      const int64_t count = std::min(rows * f - first, end - at);
      auto whole = at::empty({rows, h}, flat.options());
      weights_(source_name(name), row % d * h, whole.view(-1));
      const auto columns = whole.narrow(1, piece_of(expert) * f, f).reshape(-1).narrow(0, first, count);
      flat.narrow(0, at - begin, count).copy_(columns.mul(static_cast<double>(pieces_)));
      at += count;
    }
  }

  const ModelConfig source_;
  const ParamSource weights_;
  const Upcycling options_;
  const ModelConfig model_;
  const ParamSource random_;  ///< of the router and the noise: initial values
  const int64_t pieces_;      ///< G
};

}  // namespace

ModelConfig upcycled_config(const ModelConfig& source, const Upcycling& options) {
  std::vector<std::string> problems;
  const auto require = [&](bool good, std::string problem) {
    if (!good) problems.push_back(std::move(problem));
  };
  const int64_t dense = dense_width(source), width = options.expert_width > 0 ? options.expert_width : dense;
  require(
      !source.has_experts() || source.num_experts == 1,
      fmt::format("the source has {} experts (model.num_experts): only a dense model is upcycled", source.num_experts));
  require(dense % width == 0,
          fmt::format("--expert-width: {} does not divide the width of the dense feed-forward, {}", width, dense));
  const int64_t pieces = std::max<int64_t>(1, dense / width);
  require(
      options.experts % pieces == 0 && options.experts > 0,
      fmt::format("--experts: {} is not a multiple of {} pieces of the dense feed-forward", options.experts, pieces));
  require(options.top_k % pieces == 0 && options.top_k > 0,
          fmt::format("--top-k: {} is not a multiple of {} pieces of the dense feed-forward: the first forward would "
                      "not be the dense model's",
                      options.top_k, pieces));
  const auto only = [&](bool good, std::string_view key, std::string_view why) {
    require(good, fmt::format("model.{}: the source has a variant that upcycling does not copy: {}", key, why));
  };
  only(!source.experts_choose(), "routing", "the first forward would not be the dense model's");
  only(source.latent_dim == 0, "latent_dim", "a dense feed-forward works in the model's width");
  only(source.num_shared_experts == 0, "num_shared_experts", "the dense feed-forward becomes chosen experts alone");
  only(source.dense_layers == 0, "dense_layers", "every block gets experts");
  only(source.moe_every == 1, "moe_every", "every block gets experts");
  only(source.layer_widths.empty(), "layer_widths", "the pieces of all blocks have one width");
  only(!source.share_experts, "share_experts", "every block has a feed-forward of its own");
  only(source.score_scale == 1, "score_scale", "the first forward would not be the dense model's");
  only(source.gate == Gate::score, "gate", "the first forward would not be the dense model's");
  const bool one = !source.has_experts() || source.router_score == RouterScore::softmax || source.renormalize_scores;
  only(one, "router_score",
       "one expert has the sigmoid of its logit as its factor, and several have factors that add up to 1");
  require(options.noise >= 0 && options.noise <= 1,
          fmt::format("--noise: {} is not a share between 0 and 1", options.noise));
  ModelConfig out = source;
  out.ffn = Ffn::moe;
  out.num_experts = options.experts;
  out.top_k = options.top_k;
  out.expert_width = width;
  out.dense_width = 0;
  out.renormalize_scores = true;
  if (problems.empty()) problems = validate(out, "model");
  if (!problems.empty()) throw ConfigError(fmt::format("cannot upcycle:\n  {}", fmt::join(problems, "\n  ")));
  return out;
}

ParamSource upcycled(const ModelConfig& source, const ParamSource& weights, const Upcycling& options) {
  return Upcycled(source, weights, options);
}

}  // namespace olmoe
