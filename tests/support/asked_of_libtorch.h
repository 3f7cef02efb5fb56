// What a thread asks of LibTorch: tensors' memory, operators, clears. A program that counts has
// asked_of_libtorch_registration.h in one of its sources.
#pragma once
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace olmoe::test {

/// Counts what the thread that made it asks for, while it lives: thread ranks count each for itself. Memory is counted
/// as LibTorch's allocators report it to a profiler; operators as they pass the dispatcher, those within others too.
class AskedOfLibTorch {
 public:
  /// A zero_() or fill_(); one within another is not counted again.
  struct Clear {
    const void* storage;  ///< where the tensor's storage begins
    int64_t bytes;
    bool zeroes;  ///< zero_(); other writes of zeros are not distinguished
  };

  AskedOfLibTorch() : guard_(kKind, counts_), counted_(c10::DispatchKey::TESTING_ONLY_GenericMode) {}
  /// Begins again with nothing.
  void forget() { *counts_ = {}; }
  int64_t allocations() const { return counts_->allocations; }
  /// Calls by name: "aten::mm".
  const std::map<std::string, int64_t>& operators() const { return counts_->operators; }
  const std::vector<Clear>& clears() const { return counts_->clears; }
  /// FLOPs of products of matrices: aten::mm and aten::addmm_.
  int64_t gemm_flops() const { return counts_->gemm_flops; }

  /// Notes the call and hands it on to what is below in the dispatcher.
  static void pass(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
    auto& here = *static_cast<Counts*>(c10::ThreadLocalDebugInfo::get(kKind));
    const std::string& name = op.operator_name().name;
    ++here.operators[name];
    here.gemm_flops += gemm_flops(name, *stack, op.schema().arguments().size());
    const bool clears = name == "aten::zero_" || name == "aten::fill_", outermost = clears && !here.clearing;
    if (outermost) {
      const at::Tensor& x = stack->at(stack->size() - op.schema().arguments().size()).toTensor();
      here.clears.push_back({x.storage().data(), static_cast<int64_t>(x.nbytes()), name == "aten::zero_"});
      here.clearing = true;
    }
    op.redispatchBoxed(
        keys & c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::TESTING_ONLY_GenericMode), stack);
    if (outermost) here.clearing = false;
  }

 private:
  static constexpr auto kKind = c10::DebugInfoKind::PROFILER_STATE;  // where allocators look for whom to report to

  static int64_t gemm_flops(const std::string& name, const torch::jit::Stack& stack, size_t arguments) {
    if (name != "aten::mm" && name != "aten::addmm_") return 0;
    const size_t first = stack.size() - arguments + (name == "aten::mm" ? 0 : 1);
    const at::Tensor &a = stack.at(first).toTensor(), &b = stack.at(first + 1).toTensor();
    return 2 * a.size(0) * a.size(1) * b.size(1);
  }

  struct Counts final : c10::MemoryReportingInfoBase {
    void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override { allocations += bytes > 0; }
    bool memoryProfilingEnabled() const override { return true; }

    int64_t allocations = 0, gemm_flops = 0;
    bool clearing = false;
    std::map<std::string, int64_t> operators;
    std::vector<Clear> clears;
  };

  std::shared_ptr<Counts> counts_ = std::make_shared<Counts>();
  c10::DebugInfoGuard guard_;
  c10::impl::IncludeDispatchKeyGuard counted_;
};

}  // namespace olmoe::test
