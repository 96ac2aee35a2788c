# Sourced by the other scripts: sets the plugin path, and writes files.

root=$(cd "$(dirname "$0")/.." && pwd)
export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"

# quoted TEXT: quotes TEXT as a string for gst-launch.
quoted() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"; }

# write FILE PIPELINE...: runs a pipeline that ends with an MP4 or QuickTime muxer. If SORAGEN_KEYS is a folder of
# `soragen certificate`, the file gets a signed C2PA manifest.
write() {
    to=$1
    shift
    if [ -n "${SORAGEN_KEYS:-}" ]; then
        set -- "$@" ! c2pasink location="$(quoted "$to")" certificate="$(quoted "$SORAGEN_KEYS/certificate.pem")" \
            private-key="$(quoted "$SORAGEN_KEYS/private-key.pem")"
    else
        set -- "$@" ! filesink location="$(quoted "$to")"
    fi
    gst-launch-1.0 -e -q "$@"
}

# record OUT.mp4 PIPELINE...: runs a pipeline that ends with an H.264 encoder, and prints the path of the file. The file
# is renamed to OUT.mp4 when it is complete.
record() {
    out=$1
    shift
    mkdir -p "$(dirname "$out")"
    partial="$out.part"
    trap 'rm -f "$partial"' EXIT
    write "$partial" "$@" ! h264parse ! mp4mux
    mv "$partial" "$out"
    echo "$out"
}
