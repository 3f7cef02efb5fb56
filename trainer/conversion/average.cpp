#include "trainer/conversion/average.h"

#include <ATen/ops/empty.h>

#include "core/error.h"

namespace olmoe {

ParamSource mean_of(std::vector<ParamSource> sources) {
  if (sources.empty()) throw ConfigError("a mean needs at least one checkpoint");
  return [sources = std::move(sources)](const std::string& name, int64_t begin, at::Tensor out) {
    auto sum = at::empty({out.numel()}, at::kDouble), next = at::empty_like(sum);
    sources.front()(name, begin, sum);
    for (size_t i = 1; i < sources.size(); ++i) {
      sources[i](name, begin, next);
      sum.add_(next);
    }
    out.view(-1).copy_(sum.div_(static_cast<double>(sources.size())));
  };
}

}  // namespace olmoe
