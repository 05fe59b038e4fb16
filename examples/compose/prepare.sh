#!/bin/sh
# Writes what compose.yaml reads: secrets/, made up for the simulated VideoSDK, and .env, which chooses its profiles.
# What is there already is left alone, so it may be run again. Prints the key of a caller called `demo`, once.
#
# It needs Docker and nothing else; with the package installed, KEYS="gateway keys new" saves building the image first.
set -eu
cd "${1:-$(dirname "$0")/../..}"
umask 077
mkdir -p secrets

random() { head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'; }
# Readable for all, in a folder that only you can enter: the users in the containers are others.
keep() { # name, content
    [ -s "secrets/$1" ] || printf '%s\n' "$2" >"secrets/$1"
    chmod 444 "secrets/$1"
}

keep videosdk_api_key "sandbox-$(random | cut -c1-12)"
keep videosdk_secret "$(random)"
keep grafana_password "$(random)"
if [ ! -s secrets/valkey.conf ]; then
    password=$(random)
    keep valkey.conf "requirepass $password"
    keep redis_url "redis://:$password@valkey:6379"
fi
if [ ! -s secrets/callers.toml ]; then
    if [ -z "${KEYS:-}" ]; then
        docker build --quiet --tag recording-gateway:compose . >/dev/null
        KEYS="docker run --rm recording-gateway:compose keys new"
    fi
    entry=$($KEYS demo)
    # A listener on this machine may be told of events, which is for trials alone.
    keep callers.toml "$entry
webhook_http = true
webhook_private = true"
fi
[ -e .env ] || printf '%s\n' COMPOSE_PROFILES=sandbox GATEWAY_VIDEOSDK_URL=http://videosdk:8090 >.env
echo 'secrets/ and .env are there: docker compose up --wait'
