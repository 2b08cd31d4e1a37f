#!/usr/bin/env bash
# Every property test and every simulation with fresh seeds and many cases. What it used is printed, so that a failure is
# seen again by giving the same: PROPTEST_RNG_SEED, PROPTEST_CASES, MTXFLEET_ELECTION_FIRST.
#   soak.sh [TEST...]      only tests whose names contain one of these
set -euo pipefail

fresh() { od -An -N4 -tu4 /dev/urandom | tr -d ' '; }
export PROPTEST_CASES="${PROPTEST_CASES:-5000}"
export PROPTEST_RNG_SEED="${PROPTEST_RNG_SEED:-$(fresh)}"
export MTXFLEET_ELECTION_FIRST="${MTXFLEET_ELECTION_FIRST:-$(fresh)}"
export MTXFLEET_ELECTION_SCHEDULES="${MTXFLEET_ELECTION_SCHEDULES:-100000}"
export MTXFLEET_DETECTOR_NODE_SECONDS="${MTXFLEET_DETECTOR_NODE_SECONDS:-3000000}"
env | grep -E '^(PROPTEST|MTXFLEET)_' | sort

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
    # Functions inside of `proptest! { ... }`, which ends where its indentation does.
    mapfile -t names < <(git ls-files '*.rs' | xargs awk '
        /^ *proptest! \{/ { inside = 1; margin = match($0, /[^ ]/) }
        inside && /^ *fn [a-z0-9_]+\(/ { name = $0; sub(/^ *fn /, "", name); sub(/\(.*/, "", name); print name }
        inside && /^ *\}$/ && match($0, /[^ ]/) == margin { inside = 0 }
    ' | sort -u)
    names+=(whatever_fails_nobody_acts_twice whatever_fails_silence_is_noticed)
fi

# Of a crate's own tests and the files with property tests; names leave out the rest. All are run even when one fails.
"${CARGO:-cargo}" test --locked --workspace --no-fail-fast --lib \
    --test election --test cameras --test faults --test handover -- --nocapture "${names[@]}"
