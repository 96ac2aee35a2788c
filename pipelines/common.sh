# Read by the other scripts: finds the plugin, and writes files.

root=$(cd "$(dirname "$0")/.." && pwd)
export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"

# quoted TEXT: as a string of gst-launch's language, in which it means nothing but itself.
quoted() { printf '"%s"' "$(printf '%s' "$1" | sed 's/[\\"]/\\&/g')"; }

# write FILE PIPELINE...: runs a pipeline that ends with a muxer of MP4 or QuickTime. With a folder of keys in
# SORAGEN_KEYS, as `soragen certificate` makes one, what made the file is signed.
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

# record OUT.mp4 PIPELINE...: runs a pipeline that ends with an H.264 encoder, and says where its file is. The file gets
# its name when it is whole.
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
