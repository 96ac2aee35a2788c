#!/bin/sh
# Changes a video as a prompt says: pipelines/restyle.sh VIDEO PROMPT [OUT.mp4 [PROPERTY=VALUE ...]]
# For a camera replace filesrc and decodebin by v4l2src.
set -eu
. "$(dirname "$0")/common.sh"
video=$1
prompt=$2
out=${3:-out/restyle.mp4}
shift $(($# > 3 ? 3 : $#))

record "$out" filesrc location="$(quoted "$video")" ! decodebin ! videoconvert ! videoscale ! \
    sorafilter prompt="$(quoted "$prompt")" ingredient="$(quoted "$video")" "$@" ! x264enc
