#!/bin/sh
# Shows a video with a green background in front of a generated one:
# pipelines/overlay.sh FOREGROUND PROMPT [OUT.mp4 [PROPERTY=VALUE ...]]
# SIZE is that of the result. A background that is shorter stops at its last frame; duration=NANOSECONDS makes it longer.
set -eu
. "$(dirname "$0")/common.sh"
foreground=$1
prompt=$2
out=${3:-out/overlay.mp4}
caps="video/x-raw,${SIZE:-width=1280,height=720}"
shift $(($# > 3 ? 3 : $#))

record "$out" compositor name=mix sink_0::repeat-after-eos=true sink_1::zorder=1 ! videoconvert ! x264enc name=encoder \
    soragen prompt="$(quoted "$prompt")" "$@" ! videoconvert ! videoscale ! "$caps" ! queue ! mix.sink_0 \
    filesrc location="$(quoted "$foreground")" ! decodebin ! videoconvert ! videoscale ! "$caps" ! \
    alpha method=green ! queue ! mix.sink_1 encoder.
