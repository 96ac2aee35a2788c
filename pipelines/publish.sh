#!/bin/sh
# Publishes a live stream with silent audio, until interrupted: to an RTMP server, or over SRT.
# pipelines/publish.sh URL [PROMPT [PROPERTY=VALUE ...]]
#   URL is rtmp://HOST/APP/KEY, or srt://HOST:PORT, or srt://:PORT?mode=listener, to which OBS and vMix connect.
# The picture is black while the model loads, and if it fails.
set -eu
. "$(dirname "$0")/common.sh"
url=$1
prompt=${2:-a whale swims under water}
shift $(($# > 2 ? 2 : $#))

case $url in
rtmp:* | rtmps:*) set -- flvmux "rtmp2sink location=$(quoted "$url")" "$@" ;;
srt:*) set -- "mpegtsmux alignment=7" "srtsink uri=$(quoted "$url") wait-for-connection=false" "$@" ;;
*)
    echo "publish: $url is neither rtmp:// nor srt://" >&2
    exit 2
    ;;
esac
mux=$1
sink=$2
shift 2

# Both are split into words on purpose.
# shellcheck disable=SC2086
# A receiver may come later, so every key frame has the headers.
exec gst-launch-1.0 -e soragen is-live=true slate=black prompt="$(quoted "$prompt")" "$@" ! queue ! \
    x264enc tune=zerolatency key-int-max=32 ! h264parse config-interval=-1 ! mux. \
    audiotestsrc is-live=true wave=silence ! audioconvert ! avenc_aac ! aacparse ! mux. \
    $mux name=mux ! $sink
