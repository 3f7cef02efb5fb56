#!/usr/bin/env bash
# Checks and measures this program on a GPU from the folder that scripts/gpu/bundle.sh packed, in three calls of at most
# 330 seconds each.
# usage: scripts/gpu/check.sh [--rehearse] [--call 1|2|3] [REPORT_FOLDER] [--only PART ...]
#   --call         1: the tests, a layer, training steps; 2: graphs, comparisons, profiles, memory checks; 3: attention, ablations.
#                  All if not named
#   --rehearse     for a machine without a GPU: runs what a CPU can, small, and does not mind what could not run
#   REPORT_FOLDER  report/ if not named, with --call 1 report_1/ and so on, with --only report_of_some/; replaced
#   --only         these parts alone, by name or pattern ('olmoe_*'): to repeat one after a fix. Never a "go"
# Leaves report.json, report.md and a log of each part, complete after each part. Returns 0 if every part that a verdict needs ran and passed, 3 where
# driver or torch are missing, else 1. docs/gpu.md says what the parts are.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if ! [ -x env.sh ] || ! [ -d bin ]; then
  echo "error: $PWD is no bundle: make one with scripts/gpu/bundle.sh" >&2
  exit 1
fi
export PATH="$PATH:/usr/local/cuda/bin"  # where compute-sanitizer and the profilers are, if nowhere else
command -v python3 >/dev/null || { echo "error: there is no python3 on the path" >&2; exit 1; }
exec python3 scripts/gpu/check.py "$@"
