#!/bin/sh
# Every shot of a subtitle file starts from what another video shows at that time, and goes on in its own way:
# pipelines/camera.sh VIDEO FILM.srt [OUT.mp4 [PROPERTY=VALUE ...]]
# For a camera put v4l2src in place of filesrc and decodebin.
set -eu
. "$(dirname "$0")/common.sh"
video=$1
subtitles=$2
out=${3:-out/camera.mp4}
shift $(($# > 3 ? 3 : $#))

# The properties are those of the soragen within.
for setting; do
    shift
    set -- "$@" "soragen::$setting"
done
record "$out" filesrc location="$(quoted "$subtitles")" ! subparse ! prompt.text \
    filesrc location="$(quoted "$video")" ! decodebin ! videoconvert ! prompt.video \
    soraprompt name=prompt "$@" ! x264enc tune=zerolatency
