#!/usr/bin/env bash
# Builds all programs, tests and benchmarks with each of the supported compilers that is installed, as somebody does who
# configures by hand: the default build type, warnings shown and not errors. Each takes about ten minutes on two cores.
# usage: scripts/check_compilers.sh [COMPILER ...]     e.g. g++-13 clang++-15; none named: every supported one found
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

supported=(g++-12 g++-13 g++-14 clang++-14 clang++-15 clang++-16)

build_with() {  # compiler
  local folder="build-compiler-$1" c_compiler
  c_compiler="$(sed -e 's/clang++/clang/' -e 's/g++/gcc/' <<<"$1")"
  mkdir -p "$folder"
  note "$1: configuring $folder"
  cmake -S . -B "$folder" -G Ninja -DCMAKE_C_COMPILER="$c_compiler" -DCMAKE_CXX_COMPILER="$1" -DBUILD_TESTING=ON \
    -DOLMOE_BENCH=ON || return
  cmake --build "$folder" --parallel "$(nproc)" 2>&1 | tee "$folder/build.log" || return
  printf '%s\n' "$1 builds, with $(grep -c 'warning:' "$folder/build.log" || true) warnings" >> "$results"
}

cd "$REPOSITORY"
scripts/install_libtorch.sh
results="$(mktemp)"
trap 'rm -f "$results"' EXIT
failed=()
if [ $# -gt 0 ]; then
  chosen=("$@")
else
  chosen=()
  for compiler in "${supported[@]}"; do
    if command -v "$compiler" >/dev/null; then chosen+=("$compiler"); else note "$compiler is not installed"; fi
  done
fi
[ ${#chosen[@]} -gt 0 ] || die "none of ${supported[*]} is installed"
for compiler in "${chosen[@]}"; do
  command -v "$compiler" >/dev/null || die "$compiler is not installed"
  build_with "$compiler" || failed+=("$compiler")
done
cat "$results"
[ ${#failed[@]} -eq 0 ] || die "does not build: ${failed[*]}"
