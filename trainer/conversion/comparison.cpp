#include "trainer/conversion/comparison.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isnan.h>
#include <ATen/ops/where.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "core/text.h"
#include "trainer/conversion/param_stream.h"

namespace olmoe {
namespace {

std::string title(const SavedTensor& tensor) { return tensor.kind + " " + tensor.name; }

/// Adds what a piece of both has to `out`.
void compare_piece(const at::Tensor& a, const at::Tensor& b, int64_t begin, TensorDifference& out) {
  const auto unequal = a.ne(b).logical_and(at::isnan(a).logical_and(at::isnan(b)).logical_not());
  out.scale = std::max(out.scale, a.abs().max().item<double>());
  const auto differing = unequal.sum().item<int64_t>();
  if (differing == 0) return;
  const auto gap = at::where(unequal, (a - b).abs(), at::zeros_like(a))
                       .nan_to_num(std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity());
  const auto at = gap.argmax().item<int64_t>();
  const double largest = gap[at].item<double>();
  if (out.differing == 0 || largest > out.largest)
    out.largest = largest, out.at = begin + at, out.a = a[at].item<double>(), out.b = b[at].item<double>();
  out.differing += differing;
}

/// Values of both models, piece by piece.
class Reader {
 public:
  Reader(const SavedModel& a, const SavedModel& b, int64_t all_bytes, const Progress& progress)
      : a_(a), b_(b), all_bytes_(all_bytes), progress_(progress) {}

  TensorDifference compare(const SavedTensor& tensor) {
    TensorDifference out{title(tensor), tensor.numel, 0, 0, 0, 0, 0, 0};
    for (int64_t begin = 0; begin < tensor.numel; begin += kPieceElements) {
      const int64_t count = std::min(kPieceElements, tensor.numel - begin);
      const auto a = at::empty({count}, at::kDouble), b = at::empty_like(a);
      a_.read(tensor.kind, tensor.name, begin, a);
      b_.read(tensor.kind, tensor.name, begin, b);
      compare_piece(a, b, begin, out);
      done_bytes_ += count * safetensors::size_bytes(tensor.dtype);
      if (progress_) progress_(done_bytes_, all_bytes_);
    }
    return out;
  }

 private:
  const SavedModel &a_, &b_;
  int64_t all_bytes_, done_bytes_ = 0;
  const Progress& progress_;
};

std::vector<std::string> config_differences(const SavedModel& a, const SavedModel& b) {
  if (a.manifest && b.manifest) return differing_fields(a.config, b.config);
  auto out = differing_fields(a.config.model, b.config.model);
  for (auto& line : out) line = "model." + line;
  return out;
}

void append_list(std::string& out, const std::string& head, const std::vector<std::string>& lines) {
  if (!lines.empty()) out += fmt::format("{}\n  {}\n", head, fmt::join(lines, "\n  "));
}

}  // namespace

Comparison compare_models(const SavedModel& a, const SavedModel& b, const Progress& progress) {
  Comparison out;
  out.config = config_differences(a, b);
  std::map<std::string, SavedTensor> theirs;
  for (const auto& tensor : b.tensors) theirs.emplace(title(tensor), tensor);
  std::vector<SavedTensor> both;
  int64_t all_bytes = 0;
  for (const auto& tensor : a.tensors) {
    const auto found = theirs.find(title(tensor));
    if (found == theirs.end()) {
      out.only_a.push_back(title(tensor));
      continue;
    }
    if (found->second.numel != tensor.numel)
      out.sizes.push_back(fmt::format("{}: {} elements -> {}", title(tensor), tensor.numel, found->second.numel));
    else
      both.push_back(tensor), all_bytes += tensor.numel * safetensors::size_bytes(tensor.dtype);
    theirs.erase(found);
  }
  for (const auto& [name, tensor] : theirs) out.only_b.push_back(name);
  out.compared = static_cast<int64_t>(both.size());
  Reader reader(a, b, all_bytes, progress);
  for (const auto& tensor : both)
    if (auto difference = reader.compare(tensor); difference.differing > 0)
      out.tensors.push_back(std::move(difference));
  std::ranges::stable_sort(out.tensors, std::greater(), &TensorDifference::largest);
  return out;
}

std::string describe(const Comparison& comparison, size_t top) {
  std::string out;
  append_list(out, "config:", comparison.config);
  append_list(out, "only in the first:", comparison.only_a);
  append_list(out, "only in the second:", comparison.only_b);
  append_list(out, "of different sizes:", comparison.sizes);
  const auto count = static_cast<int64_t>(comparison.tensors.size());
  if (count == 0) return out + fmt::format("{}: all values are equal\n", counted(comparison.compared, "tensor"));
  out += fmt::format("{} of {} tensors differ\n", count, comparison.compared);
  for (size_t i = 0; i < std::min(top, comparison.tensors.size()); ++i) {
    const auto& tensor = comparison.tensors[i];
    out += fmt::format(
        "  {}: {} of {} values differ, by at most {:.6g} (element {}: {:.9g} -> {:.9g}; largest |value| "
        "{:.6g})\n",
        tensor.tensor, grouped(tensor.differing), grouped(tensor.numel), tensor.largest, tensor.at, tensor.a, tensor.b,
        tensor.scale);
  }
  if (comparison.tensors.size() > top) out += fmt::format("  and {} more\n", comparison.tensors.size() - top);
  return out;
}

}  // namespace olmoe
