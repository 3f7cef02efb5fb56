#!/usr/bin/env bash
# Installs Debian or Ubuntu packages, and does nothing where all are present.
# usage: scripts/install_packages.sh [test] [plot] [study] [bench]     what it takes to build and run is always included
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

packages=(g++ cmake ninja-build ccache libopenmpi-dev openmpi-bin libyaml-cpp-dev libspdlog-dev libfmt-dev
  libcli11-dev nlohmann-json3-dev libxxhash-dev zlib1g-dev python3 python3-pip)
for extra in "$@"; do
  case "$extra" in
    test) packages+=(catch2 clang-format-14 git xz-utils zstd) ;;
    plot) packages+=(python3-numpy python3-matplotlib) ;;
    study) packages+=(python3-yaml python3-numpy python3-scipy python3-statsmodels python3-matplotlib) ;;
    bench) packages+=(libbenchmark-dev) ;;
    *) die "unknown group '$extra': test, plot, study or bench" ;;
  esac
done
command -v dpkg-query >/dev/null || die "no dpkg here: install the counterparts of: ${packages[*]}"

missing=()
for package in "${packages[@]}"; do
  # shellcheck disable=SC2016  # ${Status} is dpkg-query's own
  [ "$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null)" = "install ok installed" ] || missing+=("$package")
done
if [ ${#missing[@]} -eq 0 ]; then
  note "all ${#packages[@]} packages are installed"
  exit 0
fi
note "installing: ${missing[*]}"
as_root apt-get update -q
as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" </dev/null
