#!/usr/bin/env bash
# Puts the pinned LibTorch into .deps/libtorch-<version>: the torch wheel and the two CUDA libraries that
# libtorch_cpu.so is linked to. 0.55 GB to download, 1.1 GB on disk. No Python package is needed to run them.
# Does nothing where it is present, or where LIBTORCH names a folder that holds one.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=2.11.0
target="$REPOSITORY/.deps/libtorch-$version"

holds_libtorch() {
  local folder
  for folder in "$1" "$1/torch" "$1/libtorch"; do
    if [ -e "$folder/lib/libtorch_cpu.so" ]; then return 0; fi
  done
  return 1
}

if [ -n "${LIBTORCH:-}" ]; then
  holds_libtorch "$LIBTORCH" || die "LIBTORCH names $LIBTORCH, which holds no libtorch_cpu.so"
  note "LibTorch: $LIBTORCH"
  exit 0
fi
if holds_libtorch "$target"; then
  note "LibTorch $version: $target"
  exit 0
fi
[ "$(uname -m)" = x86_64 ] || die "the pinned wheel is for x86_64: build LibTorch $version and name it in LIBTORCH"

note "downloading LibTorch $version"
# Python version and platforms are fixed, so that any python3 and any pip fetch the same wheels.
platforms=()
for glibc_minor in $(seq 17 28); do platforms+=(--platform "manylinux_2_${glibc_minor}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64)
unpack_wheels --implementation cp --python-version 3.11 --only-binary=:all: "${platforms[@]}" \
  "torch==$version" "nvidia-cuda-runtime==13.0.*" "nvidia-cuda-cupti==13.0.*"
holds_libtorch "$unpacked" || die "the wheel holds no libtorch_cpu.so"
chmod 755 "$unpacked"
mv -T "$unpacked" "$target"  # complete or absent
note "LibTorch $version: $target"
