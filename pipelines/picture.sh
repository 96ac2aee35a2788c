#!/bin/sh
# A video goes on from a picture: pipelines/picture.sh PICTURE PROMPT [OUT.mp4 [PROPERTY=VALUE ...]]
set -eu
picture=$1
prompt=$2
out=${3:-out/picture.mp4}
shift $(($# > 3 ? 3 : $#))
root=$(cd "$(dirname "$0")/.." && pwd)

export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
mkdir -p "$(dirname "$out")"
# The file gets its name when it is whole.
partial="$out.part"
trap 'rm -f "$partial"' EXIT
gst-launch-1.0 -e -q soragen image="$picture" prompt="$prompt" "$@" ! x264enc ! h264parse ! mp4mux ! \
    filesink location="$partial"
mv "$partial" "$out"
echo "$out"
