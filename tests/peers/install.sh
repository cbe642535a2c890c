#!/usr/bin/env bash
# Puts the foreign programs of `make test-peers` in place: curl, openssl and h2load from the
# distribution, grpcio and websockets in a virtual environment under target/peers.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${CARGO_TARGET_DIR:-$root/target}/peers/clients

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables)
command -v python3 >/dev/null || missing+=(python3)
python3 -c 'import venv, ensurepip' 2>/dev/null || missing+=(python3-venv)

if [ ${#missing[@]} -gt 0 ]; then
    echo "installing ${missing[*]}"
    administrator=()
    [ "$(id -u)" = 0 ] || administrator=(sudo)
    "${administrator[@]}" apt-get update -qq
    "${administrator[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        "${missing[@]}" >/dev/null
fi

[ -x "$environment/bin/python3" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/peers/requirements.txt"

curl --version | head -n 1
openssl version
h2load --version
"$environment/bin/python3" -c 'import grpc, websockets; print("grpcio", grpc.__version__, "websockets", websockets.__version__)'
