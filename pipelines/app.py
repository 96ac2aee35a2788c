#!/usr/bin/python3
"""Example application for `soragen`: shows progress, changes the prompt while the video is generated, and stops on demand.

    GST_PLUGIN_PATH=target/release pipelines/app.py 'soragen prompt="a red fox runs over the snow" duration=-1' \
        'x264enc tune=zerolatency ! mp4mux ! filesink location=out.mp4'

Each line on stdin is the next prompt; an empty line ends the video.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
from gi.repository import GLib, Gst  # noqa: E402


def print_message(message: Gst.Message) -> None:
    """Prints progress and shot messages of the source."""
    structure = message.get_structure()
    if structure.get_name() == "soragen-progress":
        phase, step, steps, frame = (structure.get_value(name) for name in ("phase", "step", "steps", "frame"))
        print(f"\r{phase:8} step {step}/{steps} frame {frame} ", end="", file=sys.stderr, flush=True)
    elif structure.get_name() == "soragen-shot":
        print(f"\rfrom frame {structure.get_value('frame')}: {structure.get_value('prompt')}", file=sys.stderr)


def read_prompts(source: Gst.Element) -> None:
    """Sets prompts from stdin. Properties and signals work from any thread and do not wait for the model."""
    for line in sys.stdin:
        if line.strip():
            source.set_property("prompt", line.strip())
        else:
            source.emit("cancel")


def main() -> int:
    source = sys.argv[1] if len(sys.argv) > 1 else 'soragen prompt="a red fox runs over the snow"'
    sink = sys.argv[2] if len(sys.argv) > 2 else "videoconvert ! autovideosink"
    Gst.init(None)
    try:
        pipeline = Gst.parse_launch(f"{source} name=source ! {sink}")
    except GLib.Error as error:
        print(error.message, file=sys.stderr)
        return 1
    pipeline.set_state(Gst.State.PLAYING)
    threading.Thread(target=read_prompts, args=[pipeline.get_by_name("source")], daemon=True).start()
    kinds = Gst.MessageType.EOS | Gst.MessageType.ERROR | Gst.MessageType.ELEMENT
    status = 0
    while True:
        message = pipeline.get_bus().timed_pop_filtered(Gst.CLOCK_TIME_NONE, kinds)
        if message.type == Gst.MessageType.ELEMENT:
            print_message(message)
            continue
        if message.type == Gst.MessageType.ERROR:
            print(message.parse_error()[0].message, file=sys.stderr)
            status = 1
        break
    pipeline.set_state(Gst.State.NULL)
    return status


if __name__ == "__main__":
    sys.exit(main())
