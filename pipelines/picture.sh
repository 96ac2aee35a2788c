#!/bin/sh
# Generates a video that starts from an image: pipelines/picture.sh PICTURE PROMPT [OUT.mp4 [PROPERTY=VALUE ...]]
set -eu
. "$(dirname "$0")/common.sh"
picture=$1
prompt=$2
out=${3:-out/picture.mp4}
shift $(($# > 3 ? 3 : $#))

record "$out" soragen image="$(quoted "$picture")" prompt="$(quoted "$prompt")" "$@" ! x264enc
