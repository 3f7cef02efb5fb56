// What a program without cuDNN's front end has instead of kernels/cudnn/*.cpp.
#include "core/error.h"
#include "kernels/cudnn/attention.h"

namespace olmoe::kernels::cudnn {

bool built_in() { return false; }
c10::intrusive_ptr<CudnnAttention> make_attention() {
  throw Error("attention: this program was built without cuDNN's front end");
}

}  // namespace olmoe::kernels::cudnn
