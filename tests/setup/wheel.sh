#!/usr/bin/env bash
# Builds the Python wheel into the folder given, with maturin from PyPI in a virtual environment beside it, and prints
# the wheel's path. Options after the folder go to maturin (`--release`).
#
# Ends with 3, and says why, when Python's venv or maturin cannot be had; with 1 when the wheel does not build.
set -euo pipefail

folder="$1"
shift
mkdir -p "$folder"
if ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
    echo "the wheel needs python3, 3.10 or newer" >&2
    exit 3
fi
venv="$folder/venv"
if [ ! -x "$venv/bin/maturin" ]; then
    rm -rf "$venv"
    if ! python3 -m venv "$venv" >&2; then
        echo "python3 -m venv does not work; run: sudo apt-get install python3-venv" >&2
        exit 3
    fi
    if ! "$venv/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.9,<2' >&2; then
        echo "maturin could not be installed from PyPI" >&2
        exit 3
    fi
fi
rm -f "$folder"/*.whl
cd "$(dirname "$0")/../../agent/ai-client/python"
"$venv/bin/maturin" build --locked --quiet --out "$folder" "$@" >&2
ls "$folder"/*.whl
