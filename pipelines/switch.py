#!/usr/bin/python3
"""Switches between live sources: the next one starts, and is shown from its first frame on, which becomes a key frame.

    GST_PLUGIN_PATH=target/release pipelines/switch.py 'prompt="a red fox runs over the snow"' \
        'x264enc tune=zerolatency ! mpegtsmux ! udpsink host=127.0.0.1 port=5000'

Each line on stdin is the prompt of the next source; an empty line ends the stream. The first argument are the properties of all sources.
"""

import sys
import threading

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstVideo", "1.0")
from gi.repository import GLib, Gst, GstVideo  # noqa: E402


class Switcher:
    def __init__(self, properties: str, sink: str) -> None:
        self.pipeline = Gst.parse_launch(f"input-selector name=selector sync-streams=false ! {sink}")
        self.selector = self.pipeline.get_by_name("selector")
        self.properties = properties
        self.shown: Gst.Bin | None = None

    def start(self, prompt: str | None) -> None:
        """Starts a source. It is shown when it has its first frame."""
        source = Gst.parse_bin_from_description(f"soragen name=source is-live=true {self.properties} ! queue", True)
        if prompt:
            source.get_by_name("source").set_property("prompt", prompt)
        self.pipeline.add(source)
        pad = self.selector.request_pad_simple("sink_%u")
        source.get_static_pad("src").link(pad)
        pad.add_probe(Gst.PadProbeType.BUFFER, self.show, source)
        source.sync_state_with_parent()

    def show(self, pad: Gst.Pad, _info: Gst.PadProbeInfo, source: Gst.Bin) -> Gst.PadProbeReturn:
        """Switches to the source of the first frame on `pad`."""
        self.selector.set_property("active-pad", pad)
        pad.send_event(GstVideo.video_event_new_downstream_force_key_unit(
            Gst.CLOCK_TIME_NONE, Gst.CLOCK_TIME_NONE, Gst.CLOCK_TIME_NONE, True, 0))
        before, self.shown = self.shown, source
        print(f"shown: {source.get_by_name('source').get_property('prompt')}", file=sys.stderr, flush=True)
        if before:
            # Not on this thread: it may be one of the source's own.
            GLib.idle_add(self.remove, before)
        return Gst.PadProbeReturn.REMOVE

    def remove(self, source: Gst.Bin) -> bool:
        pad = source.get_static_pad("src").get_peer()
        source.set_state(Gst.State.NULL)
        self.pipeline.remove(source)
        self.selector.release_request_pad(pad)
        return GLib.SOURCE_REMOVE

    def source_of(self, element: Gst.Object | None) -> Gst.Bin | None:
        """The source that the element is in."""
        while element and element.get_parent() is not self.pipeline:
            element = element.get_parent()
        return element if element and element.get_name().startswith("bin") else None

    def read(self) -> None:
        """Starts a source for each line of stdin."""
        for line in sys.stdin:
            if line.strip():
                GLib.idle_add(self.start, line.strip())
            else:
                self.pipeline.send_event(Gst.Event.new_eos())

    def run(self) -> int:
        loop, status = GLib.MainLoop(), 0

        def on_message(_bus: Gst.Bus, message: Gst.Message) -> None:
            nonlocal status
            source = self.source_of(message.src)
            if message.type == Gst.MessageType.ERROR and source and source is not self.shown and self.shown:
                # It was not shown yet; the one that is goes on.
                print(message.parse_error()[0].message, file=sys.stderr, flush=True)
                self.remove(source)
                return
            if message.type == Gst.MessageType.ERROR:
                print(message.parse_error()[0].message, file=sys.stderr)
                status = 1
            if message.type in (Gst.MessageType.ERROR, Gst.MessageType.EOS):
                loop.quit()

        bus = self.pipeline.get_bus()
        bus.add_signal_watch()
        bus.connect("message", on_message)
        self.start(None)
        self.pipeline.set_state(Gst.State.PLAYING)
        threading.Thread(target=self.read, daemon=True).start()
        loop.run()
        self.pipeline.set_state(Gst.State.NULL)
        return status


def main() -> int:
    properties = sys.argv[1] if len(sys.argv) > 1 else 'prompt="a red fox runs over the snow"'
    sink = sys.argv[2] if len(sys.argv) > 2 else "videoconvert ! autovideosink"
    Gst.init(None)
    try:
        return Switcher(properties, sink).run()
    except GLib.Error as error:
        print(error.message, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
