#!/usr/bin/env bash
# Checks licences, banned crates, sources and advisories with cargo-deny, which is built once when it is missing (some
# minutes). The advisory database comes from the network: where it cannot be had, that part is left out, loudly.
set -euo pipefail

# A version that rust-toolchain.toml's compiler builds: a newer one may need a newer compiler.
version=0.20.2

# As long as a clone of the database may take; without a way out some networks let a connection hang.
fetch_within=120

if ! cargo deny --version >/dev/null 2>&1; then
    echo "cargo-deny is missing; building it"
    cargo install --locked --quiet "cargo-deny@$version"
fi

cargo deny --log-level error check bans licenses sources
if timeout "$fetch_within" cargo deny --log-level error fetch db 2>/dev/null; then
    cargo deny --log-level error check --disable-fetch advisories
else
    echo "NOT CHECKED: advisories; the database at github.com/RustSec/advisory-db cannot be fetched from here"
    if [ -n "${MTXFLEET_TEST_NOTES:-}" ]; then
        echo "skipped: cargo deny advisories: the RustSec database cannot be fetched from here" >>"$MTXFLEET_TEST_NOTES"
    fi
fi
