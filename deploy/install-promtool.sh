#!/usr/bin/env bash
# Puts promtool, which the tests of deploy/alerts.yml run, into .venv/bin; does nothing if there is one.
# Taken out of Debian's package: installing that would start a Prometheus on this machine.
set -euo pipefail

bin=$(cd "$(dirname "$0")/.." && pwd)/.venv/bin
if PATH="$bin:$PATH" command -v promtool >/dev/null 2>&1; then exit 0; fi
if ! command -v apt-get >/dev/null 2>&1; then
  echo "no promtool and no apt-get. Install Prometheus 2.40 or later by hand and run again." >&2
  exit 1
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
if ! apt-get download -qq prometheus 2>/dev/null; then
  sudo=()
  if [ "$(id -u)" -ne 0 ]; then sudo=(sudo -n); fi
  "${sudo[@]}" apt-get update -qq
  apt-get download -qq prometheus
fi
dpkg-deb --fsys-tarfile prometheus_*.deb | tar x ./usr/bin/promtool
mkdir -p "$bin"
mv usr/bin/promtool "$bin"
