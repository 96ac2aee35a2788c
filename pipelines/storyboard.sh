#!/bin/sh
# Generates an H.264 file from a storyboard or a .srt, with a key frame at every cut:
# pipelines/storyboard.sh [STORYBOARD [OUT.mp4 [PROPERTY=VALUE ...]]]
set -eu
. "$(dirname "$0")/common.sh"
film="0:00 a red fox runs over the snow | 0:10 (cut) a whale swims under water | 0:20 a fish swims under water |
0:30 (cut) a cat walks in the desert | 0:40 (cut) a boat on the sea | 0:50 (cut) a rocket flies among the stars | 1:00"
storyboard=${1:-$film}
out=${2:-out/storyboard.mp4}
shift $(($# > 2 ? 2 : $#))

# zerolatency disables look-ahead: x264enc ignores a key frame request while an earlier one is pending.
record "$out" soragen storyboard="$(quoted "$storyboard")" "$@" ! x264enc tune=zerolatency
