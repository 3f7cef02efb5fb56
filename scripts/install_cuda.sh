#!/usr/bin/env bash
# Makes sure that there is a CUDA 13 toolkit with NCCL to compile with, and prints its folder as the last line. Takes the
# one that CUDA_HOME names, or nvcc's on the path, or /usr/local/cuda; else puts one into .deps/cuda-13.0, from NVIDIA's
# Python wheels (1.1 GB to download; no GPU, driver or Python package is needed to compile).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

target="$REPOSITORY/.deps/cuda-13.0"

is_toolkit() {  # folder: nvcc 13 and NCCL's header
  [ -x "$1/bin/nvcc" ] && "$1/bin/nvcc" --version | grep -q "release 13\." && [ -e "$1/include/nccl.h" ]
}

found() {
  note "CUDA toolkit: $1"
  echo "$1"
  exit 0
}

if [ -n "${CUDA_HOME:-}" ]; then
  is_toolkit "$CUDA_HOME" || die "CUDA_HOME names $CUDA_HOME, which is no CUDA 13 toolkit with nccl.h"
  found "$CUDA_HOME"
fi
on_path="$(command -v nvcc || true)"
for folder in ${on_path:+"$(dirname "$(dirname "$(readlink -f "$on_path")")")"} /usr/local/cuda "$target"; do
  if is_toolkit "$folder"; then found "$folder"; fi
done
[ "$(uname -m)" = x86_64 ] || die "the pinned wheels are for x86_64: install CUDA 13 and NCCL, and name them in CUDA_HOME"

note "downloading the CUDA 13.0 toolkit"
unpack_wheels "nvidia-cuda-nvcc==13.0.*" "nvidia-nvvm==13.0.*" "nvidia-cuda-crt==13.0.*" "nvidia-cuda-cccl==13.0.*" \
  "nvidia-cuda-runtime==13.0.*" "nvidia-cublas==13.0.*" "nvidia-cusparse==12.6.*" "nvidia-cusolver==12.0.*" \
  "nvidia-nccl-cu13==2.28.9"
toolkit="$unpacked/nvidia/cu13"
cp -r "$unpacked"/nvidia/nccl/include/. "$toolkit/include/"
cp "$unpacked"/nvidia/nccl/lib/libnccl.so.2 "$toolkit/lib/"
# Linkers look for names without a version, and CMake for lib64.
for library in "$toolkit"/lib/lib*.so.*; do ln -sf "$(basename "$library")" "${library%%.so.*}.so"; done
ln -s lib "$toolkit/lib64"
chmod -R u+rwX,go+rX "$toolkit"
chmod +x "$toolkit"/bin/* "$toolkit"/nvvm/bin/*
is_toolkit "$toolkit" || die "the wheels hold no CUDA 13 toolkit"
mv -T "$toolkit" "$target"  # complete or absent
found "$target"
