# shellcheck shell=bash
# Shared by the shell scripts, which source it first.
set -euo pipefail

export REPOSITORY  # every script works from any folder
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

note() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root and there is no sudo: $*"
  fi
}

# Debian's own Python where there is one: another python3 on the path may not see Debian's Python packages.
system_python() {
  if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3 || die "there is no python3"; fi
}

# Unpacks Python wheels into a new folder beside what is installed in .deps, which $unpacked names and which goes with the
# script: what is wanted of it is moved away, so that it is complete or absent.
# $@: arguments of pip install.
unpack_wheels() {
  mkdir -p "$REPOSITORY/.deps"
  unpacked="$(mktemp -d "$REPOSITORY/.deps/unpacking.XXXXXX")"
  trap 'rm -rf "$unpacked"' EXIT
  PIP_ROOT_USER_ACTION=ignore "$(system_python)" -m pip install --quiet --no-input --no-deps --no-compile \
    --target "$unpacked" "$@"
}

# What it takes to build and run, and the release build in build/; with the groups `test` and `bench`, those programs too.
# With `test` a compiler's warning is an error.
# $@: groups of scripts/install_packages.sh.
install_and_build() {
  local testing=OFF bench=OFF
  case " $* " in *" test "*) testing=ON ;; esac
  case " $* " in *" bench "*) bench=ON ;; esac
  "$REPOSITORY/scripts/install_packages.sh" "$@"
  "$REPOSITORY/scripts/install_libtorch.sh"
  note "building"
  cd "$REPOSITORY"
  cmake --preset cpu-release -DBUILD_TESTING=$testing -DOLMOE_BENCH=$bench -DOLMOE_WARNINGS_AS_ERRORS=$testing
  cmake --build --preset cpu-release --parallel "$(nproc)"
}

# OpenMPI refuses to start for root, the usual user of a container, until it is told twice.
allow_mpi_as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
  fi
}
