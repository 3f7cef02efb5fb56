#!/usr/bin/env bash
# Installs what tests need, builds, and runs all of them. Safe on a bare Debian machine, without a terminal.
# usage: scripts/test.sh [argument of ctest ...]     e.g. scripts/test.sh -R kernels
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_and_build test plot study bench  # benchmarks are compiled, and the bundle for a GPU packs them
if ! [ -d .deps/python/tokenizers ]; then
  note "installing the Python package that the tokenizer's tests compare with"
  PIP_ROOT_USER_ACTION=ignore "$(system_python)" -m pip install --quiet --no-input --no-deps --target .deps/python tokenizers==0.23.3
fi
export PYTHONPATH="$REPOSITORY/.deps/python${PYTHONPATH:+:$PYTHONPATH}"
allow_mpi_as_root
note "testing"
ctest --test-dir build --parallel 2 --output-on-failure --no-tests=error "$@" </dev/null
