#!/usr/bin/env bash
# Installs what the tests need and no Python package brings (Debian, Ubuntu); does nothing if all is there.
set -euo pipefail

missing=()
need() { # need PACKAGE PROGRAM...: any of the programs will do
  local package=$1 program
  shift
  for program in "$@"; do
    if command -v "$program" >/dev/null 2>&1; then return; fi
  done
  missing+=("$package")
}

need default-jre-headless java
need maven mvn
need nodejs node
need npm npm
need bubblewrap bwrap
need postgresql postgres /usr/lib/postgresql/*/bin/postgres

if [ ${#missing[@]} -eq 0 ]; then exit 0; fi
echo "installing: ${missing[*]}"
if ! command -v apt-get >/dev/null 2>&1; then
  echo "no apt-get here: install these by hand and run again: ${missing[*]}" >&2
  exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
"${sudo[@]}" apt-get update -qq
"${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
