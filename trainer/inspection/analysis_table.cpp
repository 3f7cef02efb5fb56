#include "trainer/inspection/analysis_table.h"

#include <ATen/TensorOperators.h>
#include <fmt/format.h>

#include "trainer/analysis/expert_weights.h"

namespace olmoe {
namespace {

class Table {
 public:
  Table(std::span<const NamedArray> arrays) : arrays_(arrays) {}
  /// The array of that name, undefined where the analysis has none.
  at::Tensor find(const std::string& name) const {
    for (const auto& array : arrays_)
      if (array.name == name) return array.values;
    return {};
  }
  void row(const std::string& what, const at::Tensor& values) {
    std::string line = fmt::format("{:44}", what);
    const auto flat = values.to(at::kDouble).flatten().contiguous();
    for (int64_t i = 0; i < flat.numel(); ++i) line += fmt::format(" {:9.4f}", flat.const_data_ptr<double>()[i]);
    text += line + '\n';
  }
  std::string text;

 private:
  std::span<const NamedArray> arrays_;
};

void describe_super(Table& table, const at::Tensor& peaks_LE) {
  const auto found = super_experts(peaks_LE);
  table.text += fmt::format(
      "super experts: largest output above {:.6g} (99.5th percentile) and above {:.6g} (a tenth of the largest): {}\n",
      found.percentile, found.tenth_of_largest, found.found.size());
  for (const auto& place : found.found)
    table.text += fmt::format("  layer {} expert {}: {:.6g}\n", place.layer, place.expert, place.peak);
}

}  // namespace

std::string describe_analysis(std::span<const NamedArray> arrays, const std::map<std::string, std::string>& metadata) {
  Table table(arrays);
  table.text = fmt::format("{} layers with experts, {} experts, top-{}; steps {}\n", metadata.at("layers"),
                           metadata.at("experts"), metadata.at("top_k"), metadata.at("steps"));
  if (const auto share = table.find("domains.share"); share.defined())
    table.row("busiest expert by domain, share of tokens", share[-1].amax({2}).mean(1));
  if (const auto shares = table.find("saturation.top_k"); shares.defined())
    table.row("saturation top-k by checkpoint", shares.mean(1));
  if (const auto shares = table.find("saturation.top_1"); shares.defined())
    table.row("saturation top-1 by checkpoint", shares.mean(1));
  if (const auto gaps = table.find("early.variation"); gaps.defined())
    table.row("early routing: variation by checkpoint", gaps.mean(1));
  if (const auto given = table.find("coactivation.conditional"); given.defined())
    table.row("largest P(j | i), mean over layers", given.amax({1, 2}).mean().view({1}));
  for (const auto* kind : {"input", "next", "predicted"})
    if (const auto values = table.find(fmt::format("vocabulary.{}.specialization", kind)); values.defined())
      table.row(fmt::format("vocabulary specialization, {} id, by layer", kind), values);
  if (const auto ids_TU = table.find("contexts.deviation"); ids_TU.defined() && ids_TU.numel() > 0) {
    table.row("deviation by id, by layer", ids_TU.mean(1));
    table.row("deviation by position, by layer", table.find("contexts.position_deviation").mean(0));
  }
  if (const auto dropped = table.find("drops.assignments"); dropped.defined()) {
    const auto sequences = table.find("drops.sequences").sum().to(at::kDouble);
    const auto per_position = dropped.sum(0).to(at::kDouble) / sequences;
    table.row("dropped assignments of a sequence, by layer", per_position.sum(1));
  }
  if (const auto peaks = table.find("super.peaks"); peaks.defined()) describe_super(table, peaks);
  return table.text;
}

}  // namespace olmoe
