#!/usr/bin/env bash
# From a bare Debian machine to a trained tiny model: installs, builds, makes token files, trains on two CPU ranks,
# plots, and generates a text for each domain.
# usage: scripts/quickstart.sh [key.path=value ...]     overrides of configs/tiny-cpu.yaml
# Stop it at any time (Ctrl-C saves first): started again it resumes.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

overrides=("$@")
run=""
for override in "$@"; do
  case "$override" in run.folder=*) run="${override#run.folder=}" ;; esac
done
if [ -z "$run" ]; then
  run="runs/tiny-cpu"
  overrides+=("run.folder=$run")
fi

install_and_build plot
note "making token files"
"$(system_python)" scripts/make_text_tokens.py
note "training"
scripts/launch.sh -n 2 configs/tiny-cpu.yaml "${overrides[@]}"
"$(system_python)" scripts/plot_run.py "$run"

checkpoint="$(find "$run/checkpoints" -maxdepth 1 -name 'step_*' | sort | tail -n 1)"
note "three texts that the model continues: prose, Python, C++"
build/olmoe-generate "$checkpoint" --tokenizer bytes --max-tokens 200 --temperature 0.8 --top-p 0.95 --seed 1 \
  --prompt "The people who " "def read_" "template <typename T> "
printf '\ncheckpoint  %s\nmetrics     %s\nplot        %s\n' "$checkpoint" "$run/metrics.jsonl" "$run/plot.png"
