#!/bin/sh
# Shots, or the cues of a .srt, become an H.264 file with a key frame at every cut:
# pipelines/storyboard.sh [STORYBOARD [OUT.mp4 [PROPERTY=VALUE ...]]]
set -eu
. "$(dirname "$0")/common.sh"
film="0:00 a red fox runs over the snow | 0:10 (cut) a whale swims under water | 0:20 a fish swims under water |
0:30 (cut) a cat walks in the desert | 0:40 (cut) a boat on the sea | 0:50 (cut) a rocket flies among the stars | 1:00"
storyboard=${1:-$film}
out=${2:-out/storyboard.mp4}
shift $(($# > 2 ? 2 : $#))

# Without look-ahead: until one key frame has left the encoder it takes no order for another.
record "$out" soragen storyboard="$(quoted "$storyboard")" "$@" ! x264enc tune=zerolatency
