#!/usr/bin/env bash
# Builds the Helm that the tests of deploy/helm run, which Debian does not have; does nothing if it is there.
set -euo pipefail

version=v3.22.0
bin=$HOME/go/bin # where `go install` puts things

if [ "$(PATH="$bin:$PATH" helm version --template '{{.Version}}' 2>/dev/null)" = "$version" ]; then exit 0; fi
if ! command -v go >/dev/null 2>&1; then
  echo "cannot build helm $version: there is no go. Install Go 1.26 or later, or this helm, and run again." >&2
  exit 1
fi
echo "building helm $version into $bin, once: three minutes of processor time"
CGO_ENABLED=0 GOBIN="$bin" nice go install \
  -ldflags "-s -w -X helm.sh/helm/v3/internal/version.version=$version" "helm.sh/helm/v3/cmd/helm@$version"
echo "helm $version: built in $SECONDS seconds"
