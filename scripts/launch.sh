#!/usr/bin/env bash
# Starts a training run under mpirun.
# usage: scripts/launch.sh [-n RANKS] [-f HOSTFILE] CONFIG [key.path=value ...]
#   -n  ranks (default 2); on GPUs one for each
#   -f  OpenMPI host file; build and data must lie at the same path on every host
# OMP_NUM_THREADS is passed on where it is set; on one host its default is cores / ranks. OLMOE_TRAIN names another
# program than build/olmoe-train. SIGTERM, SIGINT or SIGUSR1 make the run save and leave; starting it again goes on.
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
# mpirun kills its ranks this many seconds after a signal: the time they have to save.
arguments=(-n "$ranks" --bind-to none --mca odls_base_sigkill_timeout 60)
if [ -n "$hostfile" ]; then
  arguments+=(--hostfile "$hostfile")
  if [ -n "${OMP_NUM_THREADS:-}" ]; then arguments+=(-x OMP_NUM_THREADS); fi
else
  threads=$(($(nproc) / ranks))
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$((threads > 0 ? threads : 1))}"
  arguments+=(--oversubscribe)
fi
exec mpirun "${arguments[@]}" "$program" "$@"
