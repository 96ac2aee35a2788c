#!/bin/sh
# Renders a project of GStreamer Editing Services, with a crossfade between two soragen:// clips:
# pipelines/film.sh [PROJECT.xges [OUT.mkv]]
set -eu
. "$(dirname "$0")/common.sh"
project=$(realpath "${1:-$root/pipelines/film.xges}")
out=$(realpath -m "${2:-out/film.mkv}")

mkdir -p "$(dirname "$out")"
trap 'rm -f "$out.part"' EXIT
ges-launch-1.0 --load "$project" -o "file://$out.part" -f video/x-matroska:video/x-h264
mv "$out.part" "$out"
echo "$out"
