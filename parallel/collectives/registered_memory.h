#pragma once
#include <ATen/core/Tensor.h>

#include <exception>
#include <functional>
#include <memory>
#include <vector>

namespace olmoe {

/// One who moves memory faster when it was told of it before: a group of NCCL. One that dies forgets all by itself.
class Registrar {
 public:
  virtual ~Registrar() = default;
  /// Returns what forget() is given, for null nothing is to be forgotten.
  virtual void* remember(void* data, size_t size_bytes) = 0;
  virtual void forget(void* handle) noexcept = 0;
};

/// Memory with those who were told of it. It goes with the last tensor over it: then those who still live forget it,
/// and only then is it freed. Where an exception unwinds, nothing is done: work that another rank's death has stopped
/// may hold the memory for ever, and the process ends.
class RegisteredMemory {
 public:
  using Free = std::function<void(void*)>;
  /// A tensor of bytes over `data`, which `free` takes back.
  static at::Tensor wrap(void* data, int64_t size_bytes, c10::Device device, Free free);
  /// The memory of a tensor from wrap(), or of a view of one; null for any other.
  static RegisteredMemory* of(const at::Tensor& tensor);

  /// Tells `registrar` of the whole of it.
  void tell(const std::shared_ptr<Registrar>& registrar);

 private:
  struct Told {
    std::weak_ptr<Registrar> registrar;
    void* handle;
  };
  RegisteredMemory(void* data, size_t size_bytes, Free free);
  ~RegisteredMemory();
  static void destroy(void* memory);

  void* data_;
  size_t size_bytes_;
  Free free_;
  std::vector<Told> told_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace olmoe
