#!/usr/bin/env bash
# Starts a training run under mpirun.
# usage: scripts/launch.sh [-n RANKS] [-f HOSTFILE] CONFIG [key.path=value ...]
#   -n  ranks (default 2); on GPUs one for each
#   -f  OpenMPI host file; build and data must be at the same path on every host
# OMP_NUM_THREADS is passed on where it is set; on one host its default is cores / ranks. OLMOE_TRAIN names another
# program than build/olmoe-train. A signal that makes a run save and leave (docs/failures.md) may be sent to this script; a
# second one ends the run.
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ranks=2
hostfile=""
while getopts "n:f:" option; do
  case "$option" in
    n) ranks="$OPTARG" ;;
    f) hostfile="$OPTARG" ;;
    *) die "usage: scripts/launch.sh [-n RANKS] [-f HOSTFILE] CONFIG [key.path=value ...]" ;;
  esac
done
shift $((OPTIND - 1))
[ $# -ge 1 ] || die "no config named: scripts/launch.sh [-n RANKS] [-f HOSTFILE] CONFIG [key.path=value ...]"
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || die "-n takes a number of ranks, not '$ranks'"
program="${OLMOE_TRAIN:-$REPOSITORY/build/olmoe-train}"
[ -x "$program" ] || die "there is no $program: run cmake --preset cpu-release && cmake --build --preset cpu-release"

allow_mpi_as_root
# Once a rank left with an error, mpirun waits this long twice, then kills the others: they have saved by then.
arguments=(-n "$ranks" --bind-to none --mca odls_base_sigkill_timeout 2 --mca mpi_yield_when_idle 1)
if [ -n "$hostfile" ]; then
  arguments+=(--hostfile "$hostfile")
  if [ -n "${OMP_NUM_THREADS:-}" ]; then arguments+=(-x OMP_NUM_THREADS); fi
else
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
  arguments+=(--oversubscribe)
fi

# mpirun hands on SIGUSR1 alone at once and keeps the exit code; any other signal reaches the ranks late, if at all. So
# it runs in a process group of its own, out of the terminal's reach, and every signal becomes SIGUSR1.
signals=0
stop() {
  signals=$((signals + 1))
  if [ "$signals" -eq 1 ]; then
    note "saving; a second signal ends the run without"
    kill -USR1 "$launched"
  else
    kill -TERM "$launched"
  fi
}
set -m
mpirun "${arguments[@]}" "$program" "$@" </dev/null &
launched=$!
trap stop INT TERM HUP USR1 USR2 XCPU
while true; do
  seen=$signals
  status=0
  wait "$launched" || status=$?
  if [ "$signals" -eq "$seen" ]; then exit "$status"; fi  # otherwise a signal ended the wait, not the run
done
