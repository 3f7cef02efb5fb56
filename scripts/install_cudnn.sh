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
download() {  # folder, package
  note "downloading $2"
  PIP_ROOT_USER_ACTION=ignore "$(system_python)" -m pip install --quiet --no-input --no-deps --no-compile --target "$1" "$2"
}

if [ -n "${CUDNN_HOME:-}" ]; then
  is_complete "$CUDNN_HOME" ||
    die "CUDNN_HOME names $CUDNN_HOME, which does not hold cuDNN $cudnn with front end $front_end"
  target="$CUDNN_HOME"
elif ! is_complete "$target"; then
  mkdir -p "$REPOSITORY/.deps"
  unpacked="$(mktemp -d "$REPOSITORY/.deps/unpacking.XXXXXX")"
  trap 'rm -rf "$unpacked"' EXIT
  download "$unpacked/front_end" "nvidia-cudnn-frontend==$front_end"
  headers="$("$REPOSITORY/scripts/install_cuda.sh" | tail -1)/include"
  if ! has_cudnn "$headers"; then
    download "$unpacked/cudnn" "nvidia-cudnn-cu13==$cudnn.56"
    headers="$unpacked/cudnn/nvidia/cudnn/include"
  fi
  mkdir -p "$unpacked/home/include"
  cp "$headers"/cudnn*.h "$unpacked/home/include/"
  cp -r "$unpacked"/front_end/include/. "$unpacked/home/include/"
  cp "$unpacked"/front_end/nvidia_cudnn_frontend-*.dist-info/licenses/LICENSE.txt "$unpacked/home/"
  is_complete "$unpacked/home" || die "the wheels do not hold cuDNN $cudnn with front end $front_end"
  rm -rf "$target"
  mv -T "$unpacked/home" "$target"  # complete or absent
fi
note "cuDNN's headers: $target"
echo "$target"
