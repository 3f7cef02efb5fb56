#!/usr/bin/env bash
# Loads what build/olmoe-checkpoint exports in Hugging Face transformers and compares logits: scripts/check_interop.py.
# PYTHON names an interpreter that has torch 2.11.0, transformers 5.17.0 and safetensors; else they are installed into
# .deps/interop, which takes some minutes and gigabytes.
# usage: scripts/check_interop.sh     writes docs/benchmarks/interop.log as well
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ -x "$REPOSITORY/build/olmoe-checkpoint" ] || die "no build/olmoe-checkpoint: build it first (README.md)"
packages=(torch==2.11.0 transformers==5.17.0 safetensors numpy)
venv="$REPOSITORY/.deps/interop"
if [ -z "${PYTHON:-}" ]; then
  PYTHON="$venv/bin/python"
  if [ ! -e "$venv/complete" ]; then
    note "installing ${packages[*]} into $venv"
    if command -v uv >/dev/null; then
      uv venv --clear "$venv"
      uv pip install --python "$PYTHON" "${packages[@]}"
    else
      "$(system_python)" -m venv --clear "$venv"
      "$PYTHON" -m pip install --quiet "${packages[@]}"
    fi
    touch "$venv/complete"
  fi
fi
cd "$REPOSITORY"
"$PYTHON" scripts/check_interop.py | tee docs/benchmarks/interop.log
