#!/bin/sh
# Compiler launcher for CUDA: runs the compiler, and puts what it says of a .cu file (registers and spills of each kernel)
# into FOLDER/<file>. What it says when it fails is shown.
# usage: keep_ptxas_log.sh FOLDER COMPILER [ARGUMENT ...]
folder="$1"
shift
log=/dev/null
for argument in "$@"; do
  case "$argument" in *.cu) log="$folder/$(basename "$argument" .cu)" ;; esac
done
[ "$log" = /dev/null ] && exec "$@"
mkdir -p "$folder"
"$@" 2> "$log" && exit 0
status=$?
cat "$log" >&2
exit $status
