#!/bin/sh
# Measures everything and puts the tables into benches/README.md, between the lines that mark them.
#   benches/readme.sh [WEFT-BENCH]          (about twenty minutes, on a machine that does nothing else)
set -eu
bench=${1:-target/release/weft-bench}
readme=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)/README.md
tables=$(mktemp)
filled=$(mktemp)
trap 'rm -f "$tables" "$filled"' EXIT

# A round that failed is in the tables by name, and in the exit code: figures of others are kept.
failed=0
"$bench" suite >"$tables" || failed=1
{
    printf '\n**Functions by themselves**\n\n'
    "$bench" micro --instructions
    printf '\n**Policies**\n\n'
    "$bench" compile | sed 's/^/- /'
} >>"$tables"
awk -v tables="$tables" '
    /<!-- tables: end -->/ { skip = 0 }
    !skip { print }
    /<!-- tables: begin -->/ { while ((getline line < tables) > 0) print line; skip = 1 }
' "$readme" >"$filled"
cat "$filled" >"$readme"
exit $failed
