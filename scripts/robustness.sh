#!/bin/sh
# What the invisible mark outlives: scripts/robustness.sh CLIP [CLIP ...]
# Marks each clip, does to it what videos go through, and looks for the mark: one line each, `read` if the id was
# read, `seen` if there is a mark whose id was not, `none` if not. Needs `make build`, and GStreamer's x265 and vpx.
set -eu
[ $# -gt 0 ] || { sed -n '2,5s/^# //p' "$0"; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
export GST_PLUGIN_PATH="$root/target/release${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

x264() { echo "x264enc pass=qual quantizer=$1 ! avdec_h264"; }
scale() { echo "videoscale ! video/x-raw,width=$(($1 * width / 1000 / 2 * 2)),height=$(($1 * height / 1000 / 2 * 2))"; }
crop() { echo "videocrop left=$((width * 11 / 100)) right=$((width * 18 / 100)) top=$((height * 19 / 100)) bottom=$((height / 10))"; }

try() {
    name=$1
    shift
    # shellcheck disable=SC2068 # a pipeline, word by word
    timeout 600 gst-launch-1.0 -q filesrc location="$work/clip.mkv" ! decodebin ! videoconvert ! \
        video/x-raw,format=I420 ! soramark generation-id=123456789012 ! $@ ! videoconvert ! \
        video/x-raw,format=AYUV ! videoconvert ! video/x-raw,format=I420 ! avenc_ffv1 ! matroskamux ! \
        filesink location="$work/out.mkv" >/dev/null 2>&1 || { printf '  %-24s failed\n' "$name"; return; }
    report=$("$root/target/release/soragen" detect "$work/out.mkv") || true
    case $report in
    *1cbe991a14*) said=read ;;
    *'"marked": true'*) said=seen ;;
    *) said=none ;;
    esac
    printf '  %-24s %s  %s\n' "$name" "$said" "$(echo "$report" | grep -m 1 strength || true)"
}

for clip in "$@"; do
    gst-launch-1.0 -q filesrc location="$clip" ! decodebin ! videoconvert ! video/x-raw,format=AYUV ! videoconvert ! \
        video/x-raw,format=I420 ! identity eos-after=73 ! avenc_ffv1 ! matroskamux ! \
        filesink location="$work/clip.mkv"
    size=$(gst-discoverer-1.0 -v "$work/clip.mkv" | sed -n 's/^ *\(Width\|Height\): *//p')
    width=$(echo "$size" | sed -n 1p)
    height=$(echo "$size" | sed -n 2p)
    echo "$clip, ${width}x$height"
    for crf in 23 28 34 40; do try "x264 crf $crf" "$(x264 $crf)"; done
    try "VP9 cq 30" "vp9enc end-usage=cq cq-level=30 target-bitrate=0 deadline=1 cpu-used=6 ! vp9dec"
    try "H.265 crf 30" "x265enc qp=-1 option-string=crf=30 speed-preset=veryfast ! h265parse ! libde265dec"
    for by in 500 710 1500; do try "scaled by $by/1000" "$(scale $by)"; done
    try "cropped to 0.71" "$(crop)"
    try "cropped, scaled, crf 28" "$(crop) ! $(scale 504) ! $(x264 28)"
    try "half the contrast" "videobalance brightness=0.25 contrast=0.5"
    try "half more contrast" "videobalance contrast=1.5"
    try "another frame rate" "videorate ! video/x-raw,framerate=20/1"
done
