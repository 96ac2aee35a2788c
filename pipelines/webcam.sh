#!/bin/sh
# Changes a camera's picture live, as a prompt says: pipelines/webcam.sh PROMPT [PROPERTY=VALUE ...]
# SOURCE and SINK, parts of a pipeline, replace the camera and the window.
set -eu
. "$(dirname "$0")/common.sh"
prompt=$1
shift

# Unquoted: their words are those of the pipeline.
exec gst-launch-1.0 -e ${SOURCE:-v4l2src} ! videoconvert ! videoscale ! \
    sorafilter prompt="$(quoted "$prompt")" "$@" ! queue ! ${SINK:-videoconvert ! autovideosink}
