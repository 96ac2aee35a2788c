#!/bin/sh
# Timed text that comes through the pipeline becomes a film, here from a subtitle file:
# pipelines/subtitles.sh FILM.srt [OUT.mp4 [PROPERTY=VALUE ...]]
set -eu
subtitles=$1
out=${2:-out/subtitles.mp4}
shift $(($# > 2 ? 2 : $#))
root=$(cd "$(dirname "$0")/.." && pwd)

export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
mkdir -p "$(dirname "$out")"
# The file gets its name when it is whole.
partial="$out.part"
trap 'rm -f "$partial"' EXIT
# The properties are those of the soragen within.
for setting; do
    shift
    set -- "$@" "soragen::$setting"
done
gst-launch-1.0 -e -q filesrc location="$subtitles" ! subparse ! soraprompt "$@" ! x264enc tune=zerolatency ! h264parse ! \
    mp4mux ! filesink location="$partial"
mv "$partial" "$out"
echo "$out"
