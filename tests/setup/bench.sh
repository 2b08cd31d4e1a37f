#!/usr/bin/env bash
# Runs every bench (or those named) and collects their figures in TARGET/bench.json. All are run even when one fails;
# then the whole fails.
#   bench.sh TARGET [NAME...]
set -euo pipefail

target=$1
shift
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    for source in benches/src/bin/*.rs; do
        names+=("$(basename "$source" .rs)")
    done
fi

lines=$(mktemp)
trap 'rm -f "$lines"' EXIT
failed=()
for name in "${names[@]}"; do
    echo "== $name" >&2
    "$target/release/$name" >>"$lines" || failed+=("$name")
done

{
    echo '['
    sed '$!s/$/,/; s/^/  /' "$lines"
    echo ']'
} >"$target/bench.json"
cat "$target/bench.json"
echo "Written to $target/bench.json" >&2
if [ ${#failed[@]} -gt 0 ]; then
    echo "FAILED: ${failed[*]}" >&2
    exit 1
fi
