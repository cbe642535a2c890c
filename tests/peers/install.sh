#!/usr/bin/env bash
# Puts the foreign programs of `make test-peers` in place: curl, openssl, h2load, MariaDB and PostgreSQL
# from the distribution (the databases' programs alone, no service), and valgrind for `make instructions`; grpcio, xds-protos (Envoy's own definitions), PyJWT and websockets in
# a virtual environment under target/peers.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
environment=${CARGO_TARGET_DIR:-$root/target}/peers/clients

missing=()
command -v curl >/dev/null || missing+=(curl)
command -v openssl >/dev/null || missing+=(openssl)
command -v h2load >/dev/null || missing+=(nghttp2-client)
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing+=(nftables)
[ -x /usr/sbin/mariadbd ] || command -v mariadbd >/dev/null || missing+=(mariadb-server-core)
command -v mariadb >/dev/null || missing+=(mariadb-client-core)
command -v psql >/dev/null || missing+=(postgresql-client)
command -v valgrind >/dev/null || missing+=(valgrind)
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

if ! command -v postgres >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; then
    echo "installing postgresql, without a cluster of its own"
    administrator=()
    [ "$(id -u)" = 0 ] || administrator=(sudo)
    "${administrator[@]}" apt-get update -qq
    "${administrator[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        postgresql-common >/dev/null
    "${administrator[@]}" sed -i 's/^#*create_main_cluster.*/create_main_cluster = false/' \
        /etc/postgresql-common/createcluster.conf
    "${administrator[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends \
        postgresql >/dev/null
fi

[ -x "$environment/bin/python3" ] || python3 -m venv "$environment"
"$environment/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/peers/requirements.txt"

curl --version | head -n 1
openssl version
h2load --version
mariadb --version
psql --version
valgrind --version
"$environment/bin/python3" -c 'import envoy, grpc, jwt, websockets; print("grpcio", grpc.__version__, "PyJWT", jwt.__version__, "websockets", websockets.__version__)'
