#!/bin/sh
# Generates an H.264 file from a prompt: pipelines/file.sh [PROMPT [OUT.mp4 [FRAME_RATE [PROPERTY=VALUE ...]]]]
set -eu
. "$(dirname "$0")/common.sh"
prompt=${1:-a red fox runs over the snow}
out=${2:-out/soragen.mp4}
rate=${3:-16/1}
shift $(($# > 3 ? 3 : $#))

record "$out" soragen prompt="$(quoted "$prompt")" "$@" ! "video/x-raw,framerate=$rate" ! x264enc
