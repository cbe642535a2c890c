#!/bin/sh
# Measures what connections cost, beside the peers that can do the same: opaque TCP, new connections with full and
# resumed handshakes, connections that lie idle, bodies, two workers, start and restart.
#   benches/connections.sh [WEFT-BENCH]          (about fifteen minutes; every table says what it is)
set -eu
bench=${1:-target/release/weft-bench}
rounds=${ROUNDS:-5}
seconds=${SECONDS_EACH:-2}
idle=${IDLE:-10000}
failed=0
measure() {
    echo
    echo "## $*"
    "$bench" run --rounds "$rounds" --seconds "$seconds" "$@" || failed=1
}

measure --contenders weft,envoy-h2,haproxy --scenario tcp-64,tcp-4-1m,tcp-4-up1m,connect-16
measure --contenders weft,envoy-h2,haproxy --scenario connect-16 --sessions full
measure --contenders weft,envoy-h2,nginx,haproxy --scenario closed-16-up1k,closed-16-up100k,closed-16-up1m,closed-16-100k,closed-16-1m
measure --contenders weft,envoy-h2,haproxy --scenario closed-64,tcp-64 --workers 2
# Memory is read once per process: the first connections are the ones that cost.
rounds=1
measure --contenders weft,envoy-h1,nginx,haproxy --scenario "idle-$idle"
measure --contenders weft,envoy-h1,haproxy --scenario "idletcp-$idle"
measure --contenders weft --scenario closed-1 --restarts
exit $failed
