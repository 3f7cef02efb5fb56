#pragma once
#include <array>
#include <cstdint>

#include "core/reader/config_reader.h"
#include "kernels/attention.h"
#include "kernels/experts.h"

/// Choices of fields in a run's config.
namespace olmoe {

enum class ComputeDtype { float32, bfloat16, float64 };
enum class DeviceKind { cpu, cuda };
enum class Transport { nccl, host };
enum class ReduceDtype { master, bfloat16 };
enum class Recompute { none, selective, full };
enum class ScheduleKind { cosine, linear, constant, wsd, inverse_sqrt };
enum class CooldownShape { linear, one_minus_sqrt };
enum class OptimizerKind { adamw, muon };
enum class LrAdjustment { original, match_rms_adamw };
enum class QkvMatrices { split, fused, heads };
enum class InitOptimizer { reset, keep };
enum class InitProgress { restart, continued };

template <>
struct EnumNames<ComputeDtype> {
  static constexpr std::array names{"float32", "bfloat16", "float64"};
};
template <>
struct EnumNames<DeviceKind> {
  static constexpr std::array names{"cpu", "cuda"};
};
template <>
struct EnumNames<ReduceDtype> {
  static constexpr std::array names{"master", "bfloat16"};
};
template <>
struct EnumNames<Transport> {
  static constexpr std::array names{"nccl", "host"};
  static constexpr std::array renamed{RenamedKey{"staged", "host"}};
};
template <>
struct EnumNames<Recompute> {
  static constexpr std::array names{"none", "selective", "full"};
};
template <>
struct EnumNames<kernels::AttentionKernel> {
  static constexpr std::array names{"flash", "cudnn"};
};
template <>
struct EnumNames<kernels::ExpertKernels> {
  static constexpr std::array names{"unfused", "fused"};
};
template <>
struct EnumNames<OptimizerKind> {
  static constexpr std::array names{"adamw", "muon"};
};
template <>
struct EnumNames<LrAdjustment> {
  static constexpr std::array names{"original", "match_rms_adamw"};
};
template <>
struct EnumNames<QkvMatrices> {
  static constexpr std::array names{"split", "fused", "heads"};
};
template <>
struct EnumNames<InitOptimizer> {
  static constexpr std::array names{"reset", "keep"};
};
template <>
struct EnumNames<InitProgress> {
  static constexpr std::array names{"restart", "continue"};
};
template <>
struct EnumNames<ScheduleKind> {
  static constexpr std::array names{"cosine", "linear", "constant", "wsd", "inverse_sqrt"};
};
template <>
struct EnumNames<CooldownShape> {
  static constexpr std::array names{"linear", "1-sqrt"};
};

/// Bytes of one value.
constexpr int64_t element_bytes(ComputeDtype dtype) {
  return dtype == ComputeDtype::bfloat16 ? 2 : dtype == ComputeDtype::float32 ? 4 : 8;
}

}  // namespace olmoe
