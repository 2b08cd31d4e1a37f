#!/usr/bin/env bash
# Installs the Debian packages that the lab starts: redis-server, haproxy and ffmpeg, and whatever is named as arguments,
# as PACKAGE or PACKAGE:PROGRAM (`make bench` names prometheus-node-exporter, `make test` Python's venv and GStreamer). Installs only what is missing, with
# apt-get, as root or through passwordless sudo; otherwise prints the one command to run and ends with 1.
#
# A package installed here does not start its service (a policy-rc.d for the time of the installation forbids it), nor
# at the next boot: the lab starts its own processes on loopback addresses of its own.
set -euo pipefail

# package and the program that shows that it is there
wanted=(redis-server:redis-server haproxy:haproxy ffmpeg:ffmpeg)
for named in "$@"; do
    case $named in
        *:*) wanted+=("$named") ;;
        *) wanted+=("$named:$named") ;;
    esac
done

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
there() {
    case $1 in
        # No programs: what Debian's python3 leaves out of `python3 -m venv`, and elements of GStreamer.
        gstreamer1.0-plugins-good) gst-inspect-1.0 rtspsrc >/dev/null 2>&1 ;;
        python3-venv) python3 -c 'import ensurepip' 2>/dev/null ;;
        *) command -v "$1" >/dev/null ;;
    esac
}
missing=()
for pair in "${wanted[@]}"; do
    there "${pair#*:}" || missing+=("${pair%%:*}")
done
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi

echo "Missing: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    echo "This is not a Debian system: install these with its own package manager, and try again." >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "Neither root nor passwordless sudo. Run this, and try again:" >&2
    echo "    sudo apt-get install --no-install-recommends ${missing[*]}" >&2
    exit 1
fi

policy=/usr/sbin/policy-rc.d
forbids_start=no
if [ ! -e "$policy" ]; then
    # 101: the action is forbidden by policy (invoke-rc.d's specification).
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod 755 "$policy"
    forbids_start=yes
fi
restore() {
    if [ "$forbids_start" = yes ]; then
        "${as_root[@]}" rm -f "$policy"
    fi
}
trap restore EXIT

echo "Installing ${missing[*]} with apt-get; their services are neither started nor enabled."
"${as_root[@]}" apt-get update -q
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
if command -v systemctl >/dev/null; then
    for package in "${missing[@]}"; do
        # Packages without a unit (ffmpeg) have nothing to disable, nor has a system without systemd.
        "${as_root[@]}" systemctl disable --quiet "$package" 2>/dev/null || true
    done
fi
