#!/bin/sh
# Generates 1080p at 25 fps with time codes from a prompt, as ProRes in QuickTime:
# pipelines/broadcast.sh [PROMPT [OUT.mov [PROPERTY=VALUE ...]]]
set -eu
. "$(dirname "$0")/common.sh"
prompt=${1:-a red fox runs over the snow}
out=${2:-out/broadcast.mov}
shift $(($# > 2 ? 2 : $#))

mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.part"' EXIT
# The YUV matrix depends on the frame size, so scale in RGB.
write "$out.part" soragen prompt="$(quoted "$prompt")" timecode=10:00:00:00 "$@" ! video/x-raw,format=RGB,framerate=25/1 ! \
    videoscale add-borders=true ! video/x-raw,width=1920,height=1080,pixel-aspect-ratio=1/1 ! videoconvert ! \
    video/x-raw,format=I422_10LE,colorimetry=bt709 ! avenc_prores ! qtmux
mv "$out.part" "$out"
echo "$out"
