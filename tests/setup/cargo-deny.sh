#!/usr/bin/env bash
# Checks licences, banned crates, sources and advisories with cargo-deny, which is built once when it is missing (about
# two minutes). The advisory database comes from the network: where it cannot be had, that part is left out, loudly.
set -euo pipefail

if ! cargo deny --version >/dev/null 2>&1; then
    echo "cargo-deny is missing; building it"
    cargo install --locked --quiet cargo-deny
fi

cargo deny --log-level error check bans licenses sources
if cargo deny --log-level error fetch db 2>/dev/null; then
    cargo deny --log-level error check --disable-fetch advisories
else
    echo "NOT CHECKED: advisories; the database at github.com/RustSec/advisory-db cannot be fetched from here"
    if [ -n "${MTXFLEET_TEST_NOTES:-}" ]; then
        echo "skipped: cargo deny advisories: the RustSec database cannot be fetched from here" >>"$MTXFLEET_TEST_NOTES"
    fi
fi
