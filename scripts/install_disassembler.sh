#!/usr/bin/env bash
# Makes sure that cuobjdump and nvdisasm, which print the machine code of GPU objects, are there, and prints their folder
# as the last line: those of CUDA 13 on the path, or else of .deps/cuda-disassembler, from NVIDIA's Python wheels (6 MB to
# download).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

target="$REPOSITORY/.deps/cuda-disassembler"

has_both() {  # folder: both, of CUDA 13, as the objects are
  [ -x "$1/cuobjdump" ] && [ -x "$1/nvdisasm" ] && [[ "$("$1/cuobjdump" --version)" == *"release 13."* ]]
}

on_path="$(command -v cuobjdump || true)"
for folder in ${on_path:+"$(dirname "$on_path")"} "$target/bin"; do
  if has_both "$folder"; then
    echo "$folder"
    exit 0
  fi
done
[ "$(uname -m)" = x86_64 ] || die "the pinned wheels are for x86_64: install cuobjdump and nvdisasm of CUDA 13"
note "downloading cuobjdump and nvdisasm"
unpack_wheels "nvidia-cuda-cuobjdump==13.2.86" "nvidia-cuda-nvdisasm==13.5.37"
chmod +x "$unpacked/nvidia/cu13/bin"/*
has_both "$unpacked/nvidia/cu13/bin" || die "the wheels hold no cuobjdump and nvdisasm"
rm -rf "$target"
mv -T "$unpacked/nvidia/cu13" "$target"  # complete or absent
echo "$target/bin"
