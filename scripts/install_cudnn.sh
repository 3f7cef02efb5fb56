#!/usr/bin/env bash
# Makes sure that the headers of the pinned cuDNN, which is LibTorch's, and of its C++ front end are there, and prints
# their folder as the last line. Takes the one that CUDNN_HOME names; else puts them into .deps/cudnn-9.19.0: the front
# end's from NVIDIA's Python wheel (2 MB to download), cuDNN's from the CUDA toolkit (scripts/install_cuda.sh) if that has
# them, else from its wheel (370 MB to download, libraries among it, which are left out).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cudnn=9.19.0
front_end=1.18.0
target="$REPOSITORY/.deps/cudnn-$cudnn"

version_in() {  # header, macros in order
  local header="$1" macro found=""
  [ -r "$header" ] || return 0
  for macro in "${@:2}"; do found+=".$(sed -n "s/^#define $macro \([0-9]*\).*/\1/p" "$header")"; done
  echo "${found#.}"
}
has_cudnn() {  # folder of headers
  [ "$(version_in "$1/cudnn_version_v9.h" CUDNN_MAJOR CUDNN_MINOR CUDNN_PATCHLEVEL)" = "$cudnn" ]
}
is_complete() {  # folder
  has_cudnn "$1/include" && [ "$(version_in "$1/include/cudnn_frontend_version.h" CUDNN_FRONTEND_MAJOR_VERSION \
    CUDNN_FRONTEND_MINOR_VERSION CUDNN_FRONTEND_PATCH_VERSION)" = "$front_end" ]
}

if [ -n "${CUDNN_HOME:-}" ]; then
  is_complete "$CUDNN_HOME" ||
    die "CUDNN_HOME names $CUDNN_HOME, which does not hold cuDNN $cudnn with front end $front_end"
  target="$CUDNN_HOME"
elif ! is_complete "$target"; then
  headers="$("$REPOSITORY/scripts/install_cuda.sh" | tail -1)/include"
  wheels=("nvidia-cudnn-frontend==$front_end")
  has_cudnn "$headers" || wheels+=("nvidia-cudnn-cu13==$cudnn.56")
  note "downloading ${wheels[*]}"
  unpack_wheels "${wheels[@]}"
  has_cudnn "$headers" || headers="$unpacked/nvidia/cudnn/include"
  home="$unpacked/home"
  mkdir -p "$home/include"
  cp "$headers"/cudnn*.h "$home/include/"
  cp -r "$unpacked"/include/. "$home/include/"
  cp "$unpacked"/nvidia_cudnn_frontend-*.dist-info/licenses/LICENSE.txt "$home/"
  is_complete "$home" || die "the wheels do not hold cuDNN $cudnn with front end $front_end"
  rm -rf "$target"
  mv -T "$home" "$target"  # complete or absent
fi
note "cuDNN's headers: $target"
echo "$target"
