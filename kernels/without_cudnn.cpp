// Replaces kernels/cudnn/*.cpp in a build without cuDNN's frontend.
#include "core/error.h"
#include "kernels/cudnn/attention.h"

namespace olmoe::kernels::cudnn {

bool built_in() { return false; }
c10::intrusive_ptr<CudnnAttention> make_attention() {
  throw Error("attention: this program was built without cuDNN's frontend");
}

}  // namespace olmoe::kernels::cudnn
