#!/usr/bin/env bash
# Installs what tests need, builds, and runs all of them. Safe on a bare Debian machine, without a terminal.
# usage: scripts/test.sh [argument of ctest ...]     e.g. scripts/test.sh -R kernels
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

install_and_build test plot
allow_mpi_as_root
note "testing"
status=0
ctest --test-dir build --output-on-failure "$@" </dev/null || status=$?

log=build/Testing/Temporary/LastTest.log
awk '/^test cases:/ { cases += $3 }
     match($0, /assertions? in [0-9]+ test case/) { split(substr($0, RSTART), word, " "); cases += word[3] }
     /^Test Passed\./ { passed++ }
     /^Test Failed\./ { failed++ }
     END { printf "programs passed %d, failed %d; Catch2 test cases run %d\n", passed, failed, cases }' "$log"
exit "$status"
