#!/bin/sh
# Sends a live stream as MPEG-TS over UDP, until interrupted:
# pipelines/live.sh [PROMPT [HOST [PORT [PROPERTY=VALUE ...]]]]
# Watch it with: gst-launch-1.0 playbin3 uri=udp://127.0.0.1:5000
set -eu
. "$(dirname "$0")/common.sh"
prompt=${1:-a whale swims under water}
host=${2:-127.0.0.1}
port=${3:-5000}
shift $(($# > 3 ? 3 : $#))

exec gst-launch-1.0 -e soragen is-live=true prompt="$(quoted "$prompt")" "$@" ! queue ! x264enc tune=zerolatency ! \
    mpegtsmux ! udpsink host="$host" port="$port"
