#!/usr/bin/env bash
# Kills tiny runs on two ranks with SIGKILL at random moments and inside their saves, resumes them, and compares every
# number and the trained state with the run that was not killed. Prints a line for each kill and the counts; returns 1
# where a bit differs, or where too few kills fell inside a save.
# usage: scripts/torture_resume.sh [STEPS=20] [TRIALS=20] [SAVES=20]
#   STEPS   one kill after a save at step k, for every k up to here
#   TRIALS  more kills, of a run that saves every step
#   SAVES   as many kills inside a save, of a run with a larger state
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

program="${OLMOE_TRAIN:-$REPOSITORY/build/olmoe-train}"
[ -x "$program" ] || die "there is no $program: run cmake --preset cpu-release && cmake --build --preset cpu-release"
OLMOE_TRAIN="$program" exec "$(system_python)" "$REPOSITORY/tests/e2e/torture_resume.py" "${1:-20}" "${2:-20}" "${3:-20}"
