#!/bin/sh
# Every shot of a subtitle file starts from what another video shows at that time, and goes on in its own way:
# pipelines/camera.sh VIDEO FILM.srt [OUT.mp4 [PROPERTY=VALUE ...]]
# For a camera put v4l2src in place of filesrc and decodebin.
set -eu
video=$1
subtitles=$2
out=${3:-out/camera.mp4}
shift $(($# > 3 ? 3 : $#))
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
gst-launch-1.0 -e -q soraprompt name=prompt "$@" ! x264enc tune=zerolatency ! h264parse ! mp4mux ! \
    filesink location="$partial" \
    filesrc location="$subtitles" ! subparse ! prompt.text \
    filesrc location="$video" ! decodebin ! videoconvert ! prompt.video
mv "$partial" "$out"
echo "$out"
