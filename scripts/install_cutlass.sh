#!/usr/bin/env bash
# Makes sure that the pinned CUTLASS, headers alone, is there, and prints its folder as the last line. Takes the one
# that CUTLASS_HOME names; else puts it into .deps/cutlass-4.2.0, from NVIDIA's Python wheel (6 MB to download).
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

version=4.2.0
target="$REPOSITORY/.deps/cutlass-$version"

is_cutlass() {  # folder
  local header="$1/include/cutlass/version.h" part found=""
  [ -r "$header" ] || return 1
  for part in MAJOR MINOR PATCH; do found+=".$(sed -n "s/^#define CUTLASS_$part \([0-9]*\).*/\1/p" "$header")"; done
  [ "${found#.}" = "$version" ]
}

if [ -n "${CUTLASS_HOME:-}" ]; then
  is_cutlass "$CUTLASS_HOME" || die "CUTLASS_HOME names $CUTLASS_HOME, which holds no CUTLASS $version"
  target="$CUTLASS_HOME"
elif ! is_cutlass "$target"; then
  note "downloading CUTLASS $version"
  unpack_wheels "nvidia-cutlass==$version.0"
  source_folder="$unpacked/cutlass_library/source"
  is_cutlass "$source_folder" || die "the wheel holds no CUTLASS $version"
  cp "$unpacked"/nvidia_cutlass-*.dist-info/licenses/LICENSE.txt "$source_folder/"
  rm -rf "$target" "${source_folder:?}/examples" "${source_folder:?}/tools"
  mv -T "$source_folder" "$target"  # complete or absent
fi
note "CUTLASS: $target"
echo "$target"
