// The functions of cuDNN that its frontend calls, forwarded to the library that LibTorch has loaded: linking a second
// libcudnn would load two. Built with hidden symbols, so that calls from other libraries are not intercepted.
#include <cudnn.h>
#include <dlfcn.h>

#include "core/error.h"

namespace {

template <typename Function>
Function* find(const char* name) {
  void* const found = dlsym(RTLD_DEFAULT, name);
  ENSURE(found != nullptr, "cuDNN: no library loaded by LibTorch defines {}", name);
  return reinterpret_cast<Function*>(found);
}

}  // namespace

// One definition each: FORWARD(name, (parameters), (arguments)).
#define FORWARD(RESULT, NAME, PARAMETERS, ARGUMENTS)           \
  RESULT NAME PARAMETERS {                                     \
    static auto* const function = find<decltype(NAME)>(#NAME); \
    return function ARGUMENTS;                                 \
  }

extern "C" {

FORWARD(size_t, cudnnGetVersion, (), ())
FORWARD(const char*, cudnnGetErrorString, (cudnnStatus_t status), (status))
FORWARD(void, cudnnGetLastErrorString, (char* message, size_t size), (message, size))
FORWARD(cudnnStatus_t, cudnnGetStream, (cudnnHandle_t handle, cudaStream_t* stream), (handle, stream))
FORWARD(cudnnStatus_t, cudnnBackendCreateDescriptor,
        (cudnnBackendDescriptorType_t type, cudnnBackendDescriptor_t* descriptor), (type, descriptor))
FORWARD(cudnnStatus_t, cudnnBackendDestroyDescriptor, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnStatus_t, cudnnBackendFinalize, (cudnnBackendDescriptor_t descriptor), (descriptor))
FORWARD(cudnnStatus_t, cudnnBackendSetAttribute,
        (cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t count, const void* elements),
        (descriptor, name, type, count, elements))
FORWARD(cudnnStatus_t, cudnnBackendGetAttribute,
        (const cudnnBackendDescriptor_t descriptor, cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type,
         int64_t wanted, int64_t* count, void* elements),
        (descriptor, name, type, wanted, count, elements))
FORWARD(cudnnStatus_t, cudnnBackendExecute,
        (cudnnHandle_t handle, cudnnBackendDescriptor_t plan, cudnnBackendDescriptor_t pack), (handle, plan, pack))

}  // extern "C"
