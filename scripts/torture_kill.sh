#!/usr/bin/env bash
# Kills tiny runs of one to four ranks, which save asynchronously, with SIGKILL at random moments, starts them again until
# they are done, and compares metrics and trained state with the run that nobody touched. Prints a line for each trial;
# returns 1 where a bit differs.
# usage: scripts/torture_kill.sh [TRIALS=20] [SEED=1]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

program="${OLMOE_TRAIN:-$REPOSITORY/build/olmoe-train}"
[ -x "$program" ] || die "there is no $program: run cmake --preset cpu-release && cmake --build --preset cpu-release"
OLMOE_TRAIN="$program" exec "$(system_python)" "$REPOSITORY/tests/e2e/torture_kill.py" "${1:-20}" "${2:-1}"
