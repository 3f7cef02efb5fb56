#!/usr/bin/env bash
# Kills tiny runs on two ranks with SIGKILL at random moments, resumes them, and compares every number with the run that
# was not killed. Prints a line for each kill and a verdict; returns 1 where a bit differs.
# usage: scripts/torture_resume.sh [STEPS=20] [TRIALS=20]
#   STEPS   one kill after a save at step k, for every k up to here
#   TRIALS  more kills, of a run that saves every step
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

program="${OLMOE_TRAIN:-$REPOSITORY/build/olmoe-train}"
[ -x "$program" ] || die "there is no $program: run cmake --preset cpu-release && cmake --build --preset cpu-release"
OLMOE_TRAIN="$program" exec "$(system_python)" "$REPOSITORY/tests/e2e/torture_resume.py" "${1:-20}" "${2:-20}"
