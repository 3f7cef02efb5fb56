#pragma once
#include <ATen/core/Tensor.h>

#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace olmoe {

/// The buffers that the collectives of one group read and write. NCCL transfers registered buffers with fewer copies;
/// this class serves back ends that gain nothing by it.
class BufferRegistry {
 public:
  explicit BufferRegistry(std::string group) : group_(std::move(group)) {}
  virtual ~BufferRegistry() = default;
  BufferRegistry(const BufferRegistry&) = delete;
  BufferRegistry& operator=(const BufferRegistry&) = delete;

  const std::string& group() const { return group_; }
  /// A zeroed uint8 tensor [bytes] on `device`, registered with the group. Freed with the last tensor over it. Throws
  /// Error if bytes < 0, NCCL's also if it cannot allocate. Collective over the group, with the same arguments.
  at::Tensor allocate(int64_t bytes, c10::Device device);
  /// Registers `buffer`, which allocate() of another group returned (any view of it: all of it is registered). Throws
  /// Error for an undefined or not contiguous tensor; NCCL's also for memory of another origin. Collective over the
  /// group.
  void register_buffer(const at::Tensor& buffer);

 protected:
  /// LibTorch's allocator, for a derived class too.
  virtual at::Tensor do_allocate(int64_t bytes, c10::Device device);

 private:
  virtual void do_register_buffer(const at::Tensor&) {}

  std::string group_;
};

/// A group that transfers registered buffers faster (NCCL's user buffer registration). Registrations end with it.
class Registrar {
 public:
  virtual ~Registrar() = default;
  /// Registers `size_bytes` at `data`. Returns the handle that deregister() takes; null: there is nothing to
  /// deregister.
  virtual void* register_buffer(void* data, size_t size_bytes) = 0;
  virtual void deregister(void* handle) noexcept = 0;
};

/// Memory and the groups that it is registered with. It lives as long as the last tensor over it; then it is
/// deregistered from the groups that still exist, and freed. Where an exception unwinds the stack neither is done:
/// after the death of another rank, stopped work may use the memory indefinitely, and the process ends.
class RegisteredMemory {
 public:
  using Free = std::function<void(void*)>;
  /// A uint8 tensor [size_bytes] over `data`, which `free` gets back in the end.
  static at::Tensor wrap(void* data, int64_t size_bytes, c10::Device device, Free free);
  /// The memory of a tensor from wrap(), or of a view of one; null for any other.
  static RegisteredMemory* of(const at::Tensor& tensor);

  /// Registers all of it with `registrar`; throws what that throws.
  void register_with(const std::shared_ptr<Registrar>& registrar);

 private:
  struct Registration {
    std::weak_ptr<Registrar> registrar;
    void* handle;
  };
  RegisteredMemory(void* data, size_t size_bytes, Free free);
  ~RegisteredMemory();
  static void destroy(void* memory);

  void* data_;
  size_t size_bytes_;
  Free free_;
  std::vector<Registration> registrations_;
  int exceptions_ = std::uncaught_exceptions();
};

}  // namespace olmoe
