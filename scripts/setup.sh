#!/bin/sh
# Installs the Debian 12 packages to build, run and test soragen. The Rust toolchain must be installed. Does nothing if
# no package is missing.
set -eu

packages="g++ pkg-config libgstreamer1.0-dev libgstreamer-plugins-base1.0-dev libgstreamer-plugins-bad1.0-dev
    gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good gstreamer1.0-plugins-bad
    gstreamer1.0-plugins-ugly gstreamer1.0-plugins-base-apps gstreamer1.0-plugins-bad-apps gstreamer1.0-libav
    ges1.0-tools
    python3-gst-1.0 python3-numpy python3-venv openssl"

command -v cargo >/dev/null || {
    echo "setup: the Rust toolchain is missing; see https://rustup.rs" >&2
    exit 1
}

missing=""
for package in $packages; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
[ -z "$missing" ] && exit 0

command -v apt-get >/dev/null || {
    echo "setup: apt-get is missing; install the equivalent of:$missing" >&2
    exit 1
}
sudo=""
[ "$(id -u)" -eq 0 ] || sudo=sudo
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q
# shellcheck disable=SC2086 # a list
$sudo apt-get install -q -y --no-install-recommends $missing
