#!/bin/sh
# Generates a video from timed text in the pipeline, here from a subtitle file:
# pipelines/subtitles.sh FILM.srt [OUT.mp4 [PROPERTY=VALUE ...]]
set -eu
. "$(dirname "$0")/common.sh"
subtitles=$1
out=${2:-out/subtitles.mp4}
shift $(($# > 2 ? 2 : $#))

# The properties are set on the inner soragen element.
for setting; do
    shift
    set -- "$@" "soragen::$setting"
done
record "$out" filesrc location="$(quoted "$subtitles")" ! subparse ! soraprompt "$@" ! x264enc tune=zerolatency
