#!/bin/sh
# Installs the system packages that tests need, where this is possible: as root on Debian. Elsewhere it says what is
# missing; the tests that need it are then skipped, and with CI=true such a skip is a failure.
set -eu

missing=""
need() { # command, Debian package
    command -v "$1" >/dev/null 2>&1 || missing="$missing $2"
}

need chromium chromium
need curl curl
need npm npm
need promtool prometheus
need redis-server redis-server
need faketime faketime
need haproxy haproxy
if [ "${1:-}" = image ]; then # what `make image-check` builds and runs it with
    need buildah buildah
    need mmdebstrap mmdebstrap
fi

[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    apt-get update -qq
    # shellcheck disable=SC2086 # a list
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed, so the tests that need them will be skipped:$missing"
fi
