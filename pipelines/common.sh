# Read by the other scripts: finds the plugin, and writes files.

root=$(cd "$(dirname "$0")/.." && pwd)
export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"

# record OUT.mp4 PIPELINE...: runs a pipeline that ends with an H.264 encoder, and says where its file is. The file gets
# its name when it is whole.
record() {
    out=$1
    shift
    mkdir -p "$(dirname "$out")"
    partial="$out.part"
    trap 'rm -f "$partial"' EXIT
    gst-launch-1.0 -e -q "$@" ! h264parse ! mp4mux ! filesink location="$partial"
    mv "$partial" "$out"
    echo "$out"
}
