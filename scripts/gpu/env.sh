#!/usr/bin/env bash
# env.sh of a GPU bundle: runs a program of it, or any other, where the bundle's libraries and LibTorch are found.
# usage: ./env.sh [--without-gpu] PROGRAM [ARGUMENT ...]      e.g. ./env.sh olmoe-train configs/debug-1gpu.yaml
#        ./env.sh [--without-gpu] --check                     only says whether the bundle's programs can be loaded here
# LibTorch is the folder that LIBTORCH names, else the torch of the python3 on the path. Says what is missing, and
# returns 3.
set -euo pipefail

kTorchVersion=2.11.0
kCuda=13
kLeastDriver=580  # of CUDA 13
bundle="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

missing() { printf 'missing: %s\n' "$*" >&2; exit 3; }

# nvidia-smi may initialise the driver each time it is asked, which takes seconds: who knows the driver already says so.
need_gpu() {
  local driver="${OLMOE_GPU_DRIVER:-}"
  if [ -z "$driver" ]; then
    command -v nvidia-smi >/dev/null || missing "the NVIDIA driver: there is no nvidia-smi on the path"
    driver="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null)" || driver=""
    driver="${driver%%$'\n'*}"  # of the first; all have the same
  fi
  [[ "$driver" =~ ^[0-9]+ ]] || missing "a GPU: nvidia-smi tells of none"
  [ "${BASH_REMATCH[0]}" -ge $kLeastDriver ] || missing "driver $kLeastDriver or newer: this one is $driver"
}

# The folder that holds include/ and lib/.
find_torch() {
  local folder
  if [ -n "${LIBTORCH:-}" ]; then
    for folder in "$LIBTORCH/torch" "$LIBTORCH/libtorch" "$LIBTORCH"; do
      if [ -e "$folder/lib/libtorch_cpu.so" ]; then echo "$folder"; return; fi
    done
    missing "LibTorch: LIBTORCH names $LIBTORCH, which holds no lib/libtorch_cpu.so"
  fi
  # Importing torch would take seconds for every program.
  folder="$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' \
    2>/dev/null)" || missing "torch: LIBTORCH is not set, and the python3 on the path has no torch"
  echo "$folder"
}

check_version() {
  local header="$1/include/torch/headeronly/version.h" part version=""
  [ -r "$header" ] || missing "torch $kTorchVersion: $1 does not tell its version, for want of $header"
  for part in MAJOR MINOR PATCH; do
    version+=".$(sed -n "s/^#define TORCH_VERSION_$part \([0-9]*\).*/\1/p" "$header")"
  done
  [ "${version#.}" = "$kTorchVersion" ] || missing "torch $kTorchVersion: $1 is ${version#.}"
}

# A wheel tells for which CUDA it was built: "cuda: Optional[str] = '13.0'".
check_cuda() {
  [ -e "$1/lib/libtorch_cuda.so" ] || missing "torch for CUDA $kCuda: $1 is for CPUs alone"
  [ -r "$1/version.py" ] || return 0
  local built_for
  built_for="$(sed -n "s/^cuda\b.*= *'\([0-9.]*\)'.*/\1/p" "$1/version.py")"
  [ "${built_for%%.*}" = $kCuda ] || missing "torch for CUDA $kCuda: $1 is for CUDA ${built_for:-(version.py names none)}"
}

# Of a glibc that is too old, or a library that is not there, the dynamic loader tells.
check_loading() {
  local told
  told="$(olmoe-train --version 2>&1)" || missing "what olmoe-train needs to be loaded: $told"
}

without_gpu=""
if [ "${1:-}" = --without-gpu ]; then without_gpu=1; shift; else need_gpu; fi
[ $# -ge 1 ] || missing "a program to run: ./env.sh [--without-gpu] PROGRAM [ARGUMENT ...]"
torch="$(find_torch)"
check_version "$torch"
[ -n "$without_gpu" ] || check_cuda "$torch"
paths="$bundle/lib:$torch/lib"
for folder in "$torch"/../nvidia/*/lib; do  # where wheels keep CUDA's libraries
  if [ -d "$folder" ]; then paths+=":$folder"; fi
done
if [ -d /usr/local/cuda/lib64 ]; then paths+=":/usr/local/cuda/lib64"; fi
export PATH="$bundle/bin:$PATH" LD_LIBRARY_PATH="$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
# As the programs themselves set them; tests and benchmarks do not. The same bits from cuBLAS in every run, and NCCL's
# groups in the order of the calls.
export CUBLAS_WORKSPACE_CONFIG="${CUBLAS_WORKSPACE_CONFIG:-:4096:8}"
export NCCL_LAUNCH_ORDER_IMPLICIT="${NCCL_LAUNCH_ORDER_IMPLICIT:-1}"
if [ "$1" = --check ]; then check_loading; exit; fi
exec "$@"
