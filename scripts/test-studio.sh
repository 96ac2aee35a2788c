#!/bin/sh
# Tests the studio in Chromium: scripts/test-studio.sh. Installs the Debian packages that it needs, and builds the studio.
set -eu
cd "$(dirname "$0")/.."
missing=""
for package in chromium gstreamer1.0-nice nodejs npm; do
    case $package in
    nodejs | npm) command -v "${package%js}" >/dev/null && continue ;;
    esac
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
done
if [ -n "$missing" ]; then
    sudo=""
    [ "$(id -u)" -eq 0 ] || sudo=sudo
    # shellcheck disable=SC2086 # a list
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install -q -y --no-install-recommends $missing
fi
cargo clippy --workspace --all-targets -- -D warnings
cargo test --workspace --bin soragen-studio
cargo build --workspace --bin soragen-studio --bin soragen
target=${CARGO_TARGET_DIR:-target}
target=$(cd "$target" && pwd)
export SORAGEN_STUDIO="$target/debug/soragen-studio" SORAGEN="$target/debug/soragen"
cd studio/test
npm ci --no-fund --no-audit
npm test
