#!/usr/bin/env bash
# Compiles everything for GPUs into build-cuda-release/, without needing one. Warnings are errors. Leaves what ptxas says of
# each kernel (registers, spilled bytes) in build-cuda-release/kernels.md, and fails where a kernel would not fit a GPU. For
# 90a it looks at the machine code of the hot kernels too (build-cuda-release/machine_code.md): what makes them fast.
# usage: scripts/build_cuda.sh [ARCHITECTURES=90a [-DOPTION=VALUE ...]]   80: A100, 90a: H100, H200, 100a: B200; several with ;
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$REPOSITORY"
cuda="$(scripts/install_cuda.sh | tail -1)"
cutlass="$(scripts/install_cutlass.sh | tail -1)"
cudnn="$(scripts/install_cudnn.sh | tail -1)"
note "building for CUDA"
cmake --preset cuda-release -DCMAKE_CUDA_COMPILER="$cuda/bin/nvcc" -DCUDAToolkit_ROOT="$cuda" \
  -DCUTLASS_HOME="$cutlass" -DCUDNN_HOME="$cudnn" -DOLMOE_WARNINGS_AS_ERRORS=ON \
  -DOLMOE_CUDA_ARCHITECTURES="${1:-90a}" "${@:2}"
cmake --build --preset cuda-release --parallel "$(nproc)"
# Where pointers to shared memory are handed around.
"$(system_python)" scripts/check_address_spaces.py build-cuda-release kernels/hopper/*.cu
"$(system_python)" scripts/kernel_resources.py build-cuda-release/ptxas . > build-cuda-release/kernels.md
if [[ "${1:-90a}" == *90a* ]]; then
  disassembler="$(scripts/install_disassembler.sh | tail -1)"
  "$(system_python)" scripts/machine_code.py "$disassembler" build-cuda-release > build-cuda-release/machine_code.md
fi
note "registers and spills of $(grep -c '^| `' build-cuda-release/kernels.md) kernels: build-cuda-release/kernels.md"
