#!/bin/sh
# Continues a video: pipelines/extend.sh VIDEO PROMPT [OUT.mp4 [PROPERTY=VALUE ...]]
# FORMAT is the size and the frame rate of the model; `soragen models info MODEL` shows them.
set -eu
. "$(dirname "$0")/common.sh"
video=$1
prompt=$2
out=${3:-out/extend.mp4}
format=${FORMAT:-width=320,height=192,framerate=16/1}
shift $(($# > 3 ? 3 : $#))

caps="video/x-raw,format=I420,$format,pixel-aspect-ratio=1/1"
record "$out" concat name=both ! x264enc name=encoder \
    filesrc location="$(quoted "$video")" ! decodebin ! videoconvert ! videoscale ! videorate ! "$caps" ! both. \
    soragen prompt="$(quoted "$prompt")" extend="$(quoted "$video")" "$@" ! "$caps" ! both. encoder.
