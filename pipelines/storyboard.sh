#!/bin/sh
# Shots, or the cues of a .srt, become an H.264 file with a key frame at every cut:
# pipelines/storyboard.sh [STORYBOARD [OUT.mp4 [PROPERTY=VALUE ...]]]
set -eu
film="0:00 a red fox runs over the snow | 0:10 (cut) a whale swims under water | 0:20 a fish swims under water |
0:30 (cut) a cat walks in the desert | 0:40 (cut) a boat on the sea | 0:50 (cut) a rocket flies among the stars | 1:00"
storyboard=${1:-$film}
out=${2:-out/storyboard.mp4}
shift $(($# > 2 ? 2 : $#))
root=$(cd "$(dirname "$0")/.." && pwd)

export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
mkdir -p "$(dirname "$out")"
# The file gets its name when it is whole.
partial="$out.part"
trap 'rm -f "$partial"' EXIT
# Quoted for gst-launch, to which | and ( would mean something.
quoted=\"$(printf '%s' "$storyboard" | sed 's/[\\"]/\\&/g')\"
# Without look-ahead: until one key frame has left the encoder it takes no order for another.
gst-launch-1.0 -e -q soragen storyboard="$quoted" "$@" ! x264enc tune=zerolatency ! h264parse ! mp4mux ! \
    filesink location="$partial"
mv "$partial" "$out"
echo "$out"
