#!/bin/sh
# Measures the robustness of the watermark: scripts/robustness.sh [CLIP ...] (file names without spaces)
# Embeds the watermark, applies common changes such as encoding and scaling, and runs the detection. The default clips
# are eleven of eight seconds: four of the built-in model, two test patterns, and five of Debian's package opencv-doc.
# stderr has the results of each clip. stdout has a table for each length in LENGTHS (default: "1 3 8", in seconds): number of
# clips in which the id was decoded, number of clips in which only the watermark was detected, and the lowest strength.
# STRENGTH is the watermark-strength (default: 1). Needs `make build`, GStreamer's x265 and, to measure how visible the
# watermark is, Debian's libjxl-devtools.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd)
export GST_PLUGIN_PATH="${SORAGEN_PLUGINS:-$root/target/release}${GST_PLUGIN_PATH:+:$GST_PLUGIN_PATH}"
soragen=${SORAGEN:-$root/target/release/soragen}
lengths=${LENGTHS:-1 3 8}
longest=$(printf '%s\n' $lengths | sort -n | tail -1)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# launch FRAGMENT...: runs a pipeline; fragments are split into words.
# shellcheck disable=SC2068
launch() { timeout 900 gst-launch-1.0 -q $@ >"$work/log" 2>&1 || { cat "$work/log" >&2; return 1; }; }
open() { echo "filesrc location=$1 ! decodebin ! videoconvert"; }
# Removes the padding that decoders add.
plain="videoconvert ! video/x-raw,format=AYUV ! videoconvert ! video/x-raw,format=I420"
keep() { echo "$plain ! avenc_ffv1 ! matroskamux ! filesink location=$1"; }
from_to() { echo "avwait mode=running-time target-running-time=$1000000000 end-running-time=$2000000000"; }
x264() { echo "x264enc pass=qual quantizer=$1"; }
scale() { echo "videoscale ! video/x-raw,width=$(($1 * width / 2000 * 2)),height=$(($1 * height / 2000 * 2))"; }

make_clips() {
    render() { "$soragen" render "$2" --no-watermark --duration "$longest" --codec ffv1 -o "$work/$1.mkv" 2>"$work/log"; }
    render fox "a red fox runs over the snow"
    render whale "a whale swims under water"
    render rocket "a rocket flies among the stars"
    render boat "a boat on the sea"
    pattern() { echo "videotestsrc pattern=$1 num-buffers=$((longest * 30)) ! video/x-raw,width=640,height=480"; }
    launch "$(pattern 'smpte horizontal-speed=2')" ! "$(keep "$work/bars.mkv")"
    launch "$(pattern 'zone-plate kx2=8 ky2=8 kt=2')" ! "$(keep "$work/rings.mkv")"
    (cd "$work" && apt-get download -q opencv-doc >log 2>&1 && dpkg-deb -x opencv-doc_*.deb footage)
    gunzip "$work"/footage/usr/share/doc/opencv-doc/opencv4/html/*.mp4.gz
    for file in examples/data/vtest.avi examples/data/tree.avi examples/data/Megamind.avi opencv4/html/cup.mp4 \
        opencv4/html/box.mp4; do
        name=${file##*/}
        # Only tree.avi has missing frames.
        launch "$(open "$work/footage/usr/share/doc/opencv-doc/$file")" ! "$(from_to 1 $((longest + 1)))" ! videorate ! \
            "$(keep "$work/${name%.*}.mkv")"
    done
    for name in fox whale rocket boat bars rings vtest Megamind cup box tree; do echo "$work/$name.mkv"; done
}

# try CASE FRAGMENT...: applies the fragments to the marked clip and runs the detection.
try() {
    name=$1
    shift
    launch "$(open "$work/marked")" ! "$@" ! "$(keep "$work/out.mkv")"
    report=$("$soragen" detect "$work/out.mkv") || true
    case $report in
    *1cbe991a14*) result=decoded ;;
    *'"marked": true'*) result=detected ;;
    *) result=none ;;
    esac
    strength=$(echo "$report" | sed -n 's/.*"strength": \([0-9.]*\).*/\1/p' | sort -n | tail -1)
    echo "$name|$result|${strength:-0}" >>"$work/results-$length"
    printf '  %-28s %s %s\n' "$name" "$result" "$strength" >&2
}

# Level of the watermark in the first 16 frames below the luma peak in dB, and that of the mean of these frames.
psnr() {
    for file in clip marked; do
        launch "$(open "$work/$file")" ! "$plain" ! identity eos-after=17 ! videoconvert ! \
            video/x-raw,format=GRAY8 ! filesink "location=$work/$file.raw"
    done
    python3 -c 'import math, sys
area = int(sys.argv[3])
a, b = (open(path, "rb").read()[:16 * area] for path in sys.argv[1:3])
change = [x - y for x, y in zip(a, b)]
mean = [sum(change[i::area]) / 16 for i in range(area)]
print(*("%.1f" % (10 * math.log10(255 ** 2 * len(c) / sum(x * x for x in c))) for c in (change, mean)))' \
        "$work/clip.raw" "$work/marked.raw" $((width * height))
}

# The median of the butteraugli 3-norm, a frame every 0.9 s at other angles of the pattern; 1 is the threshold of visibility.
visibility() {
    command -v butteraugli_main >/dev/null || { echo "?"; return; }
    for file in clip marked; do
        launch "$(open "$work/$file")" ! videorate ! video/x-raw,framerate=10/9 ! videoconvert ! pngenc ! \
            multifilesink "location=$work/$file-%d.png"
    done
    for still in "$work"/clip-*.png; do
        butteraugli_main "$still" "$work/marked-${still##*-}" 2>"$work/log" | sed -n 's/^3-norm: //p'
    done | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }'
    rm "$work"/clip-*.png "$work"/marked-*.png
}

# cost CRF: increase of the file size by the watermark in percent.
cost() {
    for file in clip marked; do
        launch "$(open "$work/$file")" ! "$(x264 "$1")" ! filesink "location=$work/$file.h264"
    done
    echo $((($(stat -c %s "$work/marked.h264") * 1000 / $(stat -c %s "$work/clip.h264") + 5) / 10 - 100))
}

[ $# -gt 0 ] || {
    clips=$(make_clips)
    # shellcheck disable=SC2086 # names without spaces
    set -- $clips
}
launch videotestsrc num-buffers=1 pattern=smpte ! video/x-raw,width=200,height=200 ! pngenc ! \
    filesink "location=$work/logo.png"
for clip in "$@"; do
    size=$(gst-discoverer-1.0 -v "$clip" | sed -n 's/^ *\(Width\|Height\|Frame rate\): *//p')
    width=$(echo "$size" | sed -n 1p)
    height=$(echo "$size" | sed -n 2p)
    rate=$(echo "$size" | sed -n 3p)
    half="videocrop left=$((width * 11 / 100)) right=$((width * 18 / 100)) top=$((height * 19 / 100)) bottom=$((height / 10))"
    for length in $lengths; do
        launch "$(open "$clip")" ! "$(from_to 0 "$length")" ! "$(keep "$work/clip")"
        launch "$(open "$work/clip")" ! video/x-raw,format=I420 ! soramark generation-id=123456789012 \
            "watermark-strength=${STRENGTH:-1}" ! "$(keep "$work/marked")"
        echo "$clip, ${width}x$height at $rate, $length s" >&2
        if [ "$length" = "$longest" ]; then
            level=$(psnr)
            costs="$(cost 23) $(cost 28)"
            seen=$(visibility)
            echo "$level $costs $seen" >>"$work/measures"
            printf '  %-28s %s and %s dB, %s and %s %% larger at crf 23 and 28, butteraugli %s\n' "watermark" $level $costs \
                "$seen" >&2
        fi
        try "nothing" identity
        for crf in 23 28 40; do try "x264 crf $crf" "$(x264 $crf)" ! avdec_h264; done
        try "VP9 cq 30" vp9enc end-usage=cq cq-level=30 target-bitrate=0 deadline=1 cpu-used=6 ! vp9dec
        try "H.265 crf 30" x265enc qp=-1 option-string=crf=30 speed-preset=veryfast ! h265parse ! libde265dec
        for by in 500 710 1500; do try "scaled by $by/1000" "$(scale $by)"; done
        try "cropped to 0.71 × 0.71" "$half"
        try "cropped, scaled, crf 28" "$half" ! "$(scale 504)" ! "$(x264 28)" ! avdec_h264
        # videobalance multiplies by contrast, relative to black, and then adds brightness.
        try "brightness × 0.5" videobalance contrast=0.5
        try "brightness × 1.5" videobalance contrast=1.5
        try "contrast × 0.5" videobalance contrast=0.5 brightness=0.25
        try "contrast × 1.5" videobalance contrast=1.5 brightness=-0.25
        try "a logo over a tenth" gdkpixbufoverlay "location=$work/logo.png" offset-x=8 offset-y=8 \
            "overlay-width=$((width * 316 / 1000))" "overlay-height=$((height * 316 / 1000))"
        if [ "$length" -ge 3 ]; then
            try "first and last second cut" "$(from_to 1 $((length - 1)))"
        fi
        try "5/6 of the frame rate" videorate ! "video/x-raw,framerate=$((${rate%/*} * 5))/$((${rate#*/} * 6))"
        try "25 frames per second, crf 28" videorate ! video/x-raw,framerate=25/1 ! "$(x264 28)" ! avdec_h264
    done
done

for length in $lengths; do
    echo "| $length s | decoded | detected only | lowest strength |"
    echo "|---|---|---|---|"
    awk -F'|' '!($1 in all) { order[++cases] = $1; weakest[$1] = $3 }
        { all[$1]++; n[$1, $2]++; if ($3 + 0 < weakest[$1] + 0) weakest[$1] = $3 }
        END { for (i = 1; i <= cases; i++) { c = order[i]
            printf "| %s | %d of %d | %d | %s |\n", c, n[c, "decoded"], all[c], n[c, "detected"], weakest[c] } }' \
        "$work/results-$length"
    echo
done
cost=$(cut -d ' ' -f 3 "$work/measures" | sort -n | awk '{ all[NR] = $1 } END { print all[int((NR + 1) / 2)] }')
awk -v cost="$cost" '{ if (NR == 1 || $1 < least) least = $1; if (NR == 1 || $2 < mean) mean = $2; if ($5 > seen) seen = $5
        sum += $4 }
    END { printf "The watermark is at least %.1f dB below the luma peak, its mean over 16 frames %.1f dB. ", least, mean
        printf "The greatest butteraugli 3-norm of a clip is %s.\nFiles are %d %% larger at crf 23 (median), %.1f %% at crf 28 (mean).\n",
            seen, cost, sum / NR }' "$work/measures"
