#!/usr/bin/env bash
# Packs what a machine with a GPU needs to check and to measure this program, into one folder that is copied there
# whole: programs, the shared libraries that such a machine may lack, configs, a small token file, scripts. There, with
# an NVIDIA driver, and LibTorch or Python torch 2.11.0: scripts/gpu/check.sh.
# usage: scripts/gpu/bundle.sh [-b BUILD] [-o FOLDER]
#   -b  packs this build folder as it is; without, cuda-release is built first
#   -o  instead of gpu_bundle/, which is replaced; what travels is FOLDER.tar.xz beside it
source "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
cd "$REPOSITORY" || exit

build=""
bundle=gpu_bundle
while getopts "b:o:" option; do
  case "$option" in
    b) build="$OPTARG" ;;
    o) bundle="$OPTARG" ;;
    *) die "usage: scripts/gpu/bundle.sh [-b BUILD] [-o FOLDER]" ;;
  esac
done
kMostMb=60
# What knows no GPU.
kLeftOut=" core_tests data_tests emulation_tests golden_tests model_tests mpi_layouts_tests mpi_tests sanitizer_tests"
kLeftOut+=" step_breakdown step_overhead checkpoint_speed olmoe-generate olmoe-traces io_faults.so "
# There already: the system's, CUDA's and the driver's, LibTorch's, which brings libgomp: a second one beside it would
# make a second set of threads.
kSystem='linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libutil|libresolv|libstdc\+\+|libgcc_s'
kCuda='libcuda|libcudart|libcudnn.*|libcublas.*|libcu(fft|fftw|file|pti|rand|solver.*|sparse.*)|libnv.*|libnccl'
kPresent="^($kSystem|$kCuda|libtorch.*|libc10.*|libcaffe2.*|libshm|libgomp)[.-]"

programs_of() {
  local path
  for path in "$1"/*; do
    if [ -f "$path" ] && [ -x "$path" ] && [[ "$kLeftOut" != *" ${path##*/} "* ]]; then echo "$path"; fi
  done
}

# Prints the path of each library to be packed, and fails for one that this machine lacks.
libraries_of() {
  local name path
  ldd "$@" | while read -r name _ path _; do
    name="${name##*/}"  # ld-linux comes with its path
    if [[ "$name" != *.so* ]] || [[ "$name" =~ $kPresent ]]; then continue; fi
    [ -e "$path" ] || die "$name is not on this machine"
    echo "$path"
  done | sort -u
}

# Bytes of our own sources as 16-bit tokens: enough for a few steps of configs/tiny-cpu.yaml.
write_tokens() {
  cat LICENSE README.md docs/*.md ./*/*.h ./*/*.cpp |
    "$(system_python)" -c 'import array, sys
array.array("H", list(sys.stdin.buffer.read())).tofile(sys.stdout.buffer)' >"$1"
}

if [ -z "$build" ]; then
  build="build-cuda-release"
  scripts/build_cuda.sh 90a -DOLMOE_BENCH=ON
fi
mapfile -t programs < <(programs_of "$build")
[[ " ${programs[*]##*/} " == *" olmoe-train "* ]] || die "there is no olmoe-train in $build"

note "packing ${#programs[@]} programs of $build"
# A folder that is not a bundle is nobody's to replace.
[ ! -e "$bundle" ] || [ -e "$bundle/env.sh" ] || die "$bundle is there and is no bundle"
rm -rf "$bundle"
mkdir -p "$bundle"/{bench,bin,lib,configs,data,scripts/gpu}
cp scripts/gpu/env.sh "$bundle/env.sh"  # first: it marks a bundle
cp "${programs[@]}" "$bundle/bin/"
libraries="$(libraries_of "${programs[@]}")"
# shellcheck disable=SC2086  # a path a word
cp -L $libraries "$bundle/lib/"
strip --strip-all "$bundle"/bin/*
chmod u+w "$bundle"/lib/* && strip --strip-unneeded "$bundle"/lib/*
cp configs/*.yaml "$bundle/configs/"
cp -r configs/data "$bundle/configs/"
write_tokens "$bundle/data/sources.npy"
cp scripts/gpu/{check.sh,check.py,parts.py,report.py,tables.py,profiled_kernels.py,predictions.py,watch.py} "$bundle/scripts/gpu/"
cp bench/transformers_speed.py "$bundle/bench/"

# What travels: the GPU code of each program takes 8 MB, and half of that packed.
archive="$bundle.tar.xz"
XZ_OPT="-1 -T0" tar -C "$(dirname "$bundle")" -cJf "$archive" "$(basename "$bundle")"
size_mb=$(($(du -sk "$archive" | cut -f 1) / 1000))
[ "$size_mb" -lt $kMostMb ] || die "$archive has $size_mb MB, and may have less than $kMostMb"
note "$archive: $size_mb MB; copy it to the machine with the GPU, unpack it (tar xJf, or python3 -m tarfile -e) and run" \
  "scripts/gpu/check.sh in it"
