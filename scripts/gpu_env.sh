#!/usr/bin/env bash
# env.sh of a GPU bundle: runs a program of it, or any other, where the bundle's libraries and LibTorch are found.
# usage: ./env.sh [--without-gpu] PROGRAM [ARGUMENT ...]      e.g. ./env.sh olmoe-train configs/debug-1gpu.yaml
# LibTorch is the folder that LIBTORCH names, else the torch of the python3 on the path. Says what is missing, and
# returns 3.
set -euo pipefail

kTorchVersion=2.11.0
kLeastDriver=580  # of CUDA 13
bundle="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

missing() { printf 'missing: %s\n' "$*" >&2; exit 3; }

need_gpu() {
  command -v nvidia-smi >/dev/null || missing "the NVIDIA driver: there is no nvidia-smi on the path"
  local driver
  driver="$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null)" || driver=""
  driver="${driver%%$'\n'*}"  # of the first; all have the same
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

if [ "${1:-}" = --without-gpu ]; then shift; else need_gpu; fi
[ $# -ge 1 ] || missing "a program to run: ./env.sh [--without-gpu] PROGRAM [ARGUMENT ...]"
torch="$(find_torch)"
check_version "$torch"
paths="$bundle/lib:$torch/lib"
for folder in "$torch"/../nvidia/*/lib; do  # where wheels keep CUDA's libraries
  if [ -d "$folder" ]; then paths+=":$folder"; fi
done
if [ -d /usr/local/cuda/lib64 ]; then paths+=":/usr/local/cuda/lib64"; fi
export PATH="$bundle/bin:$PATH" LD_LIBRARY_PATH="$paths${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$@"
