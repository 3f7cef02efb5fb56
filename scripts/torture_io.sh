#!/usr/bin/env bash
# Starts tiny runs of one to four ranks whose file calls fail, are short, are interrupted or take long at random, starts
# them again until they are done, and compares metrics and trained state with the run that nobody disturbed. Then a
# disk of which a call takes 30 s. Prints a line for each trial; returns 1 where a bit differs.
# usage: scripts/torture_io.sh [TRIALS=20] [SEED=1]
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

program="${OLMOE_TRAIN:-$REPOSITORY/build/olmoe-train}"
[ -x "$program" ] || die "there is no $program: run cmake --preset cpu-release && cmake --build --preset cpu-release"
[ -f "$(dirname "$program")/io_faults.so" ] || die "there is no io_faults.so beside $program: configure with -DBUILD_TESTING=ON"
OLMOE_TRAIN="$program" "$(system_python)" "$REPOSITORY/tests/e2e/torture_io.py" "${1:-20}" "${2:-1}"
OLMOE_TRAIN="$program" OLMOE_SLOW_DISK_MS=30000 "$(system_python)" "$REPOSITORY/tests/e2e/test_io_faults.py" SlowDisk
