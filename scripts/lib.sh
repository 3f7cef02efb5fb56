# shellcheck shell=bash
# Shared by the shell scripts, which source it first.
set -euo pipefail

export REPOSITORY  # every script works from any folder
REPOSITORY="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

note() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo "$@"
  else
    die "this needs root and there is no sudo: $*"
  fi
}

# Debian's own Python where there is one: another python3 on the path may not see Debian's Python packages.
system_python() {
  if [ -x /usr/bin/python3 ]; then echo /usr/bin/python3; else command -v python3 || die "there is no python3"; fi
}
