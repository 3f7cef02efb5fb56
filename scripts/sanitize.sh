#!/usr/bin/env bash
# Builds the unit and thread-rank tests with sanitizers and runs them, and planted errors that must be found.
# usage: scripts/sanitize.sh [address|thread] [JOBS=1]     both where none is named; a build takes long and 2 GB a job
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

sanitize() {  # preset, jobs
  note "$1"
  cmake --preset "$1" -DOLMOE_WARNINGS_AS_ERRORS=ON
  cmake --build "build-$1" --target sanitizer_tests --parallel "$2"
  ctest --test-dir "build-$1" -L sanitizer --output-on-failure --no-tests=error </dev/null
}

cd "$REPOSITORY"
jobs="${2:-1}"
case "${1:-both}" in
  address) sanitize cpu-asan "$jobs" ;;
  thread) sanitize cpu-tsan "$jobs" ;;
  both)
    sanitize cpu-asan "$jobs"
    sanitize cpu-tsan "$jobs"
    ;;
  *) die "usage: scripts/sanitize.sh [address|thread] [JOBS=1]" ;;
esac
