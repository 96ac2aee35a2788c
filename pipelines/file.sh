#!/bin/sh
# A prompt becomes an H.264 file: pipelines/file.sh [PROMPT [OUT.mp4 [FRAME_RATE [PROPERTY=VALUE ...]]]]
set -eu
prompt=${1:-a red fox runs over the snow}
out=${2:-out/soragen.mp4}
rate=${3:-16/1}
shift $(($# > 3 ? 3 : $#))
root=$(cd "$(dirname "$0")/.." && pwd)

export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
mkdir -p "$(dirname "$out")"
# The file gets its name when it is whole.
partial="$out.part"
trap 'rm -f "$partial"' EXIT
gst-launch-1.0 -e -q soragen prompt="$prompt" "$@" ! "video/x-raw,framerate=$rate" ! x264enc ! h264parse ! \
    mp4mux ! filesink location="$partial"
mv "$partial" "$out"
echo "$out"
