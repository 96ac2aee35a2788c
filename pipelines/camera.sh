#!/bin/sh
# Generates a video from a subtitle file; each shot starts from the frame of another video at that time:
# pipelines/camera.sh VIDEO FILM.srt [OUT.mp4 [PROPERTY=VALUE ...]]
# For a camera replace filesrc and decodebin by v4l2src.
set -eu
. "$(dirname "$0")/common.sh"
video=$1
subtitles=$2
out=${3:-out/camera.mp4}
shift $(($# > 3 ? 3 : $#))

# The properties are set on the inner soragen element.
for setting; do
    shift
    set -- "$@" "soragen::$setting"
done
record "$out" filesrc location="$(quoted "$subtitles")" ! subparse ! prompt.text \
    filesrc location="$(quoted "$video")" ! decodebin ! videoconvert ! prompt.video \
    soraprompt name=prompt "$@" ! x264enc tune=zerolatency
