"""The deployment that has the model and makes latents."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import soragen
from soragen import command

# Entries of so many bytes go in one message.
MESSAGE = 8 << 20


class Maker:
    """Makes the latents of a request, one request at a time."""

    def __init__(self, source: str, options: dict[str, Any]) -> None:
        self._source, self._options = source, options
        self._model = soragen.Model.open(source, **options)

    async def make(self, request: soragen.Request) -> AsyncIterator[float | list[tuple[str, bytes]]]:
        """Yields the part that is done, from 0 to 1, and lists of entries."""
        scenes = await asyncio.to_thread(self._model.scenes, request)
        first, total = 0, max(sum(scenes), 1)
        for number, frames in enumerate(scenes):
            done: asyncio.Queue[float | None] = asyncio.Queue()
            loop, cancelled = asyncio.get_running_loop(), []

            def report(progress: soragen.Progress) -> None:
                if cancelled:
                    raise soragen.Cancelled("the job was deleted")
                # A whole clip is made at once: its steps are its progress.
                chunk = self._model.info.chunk_frames if self._model.info.causal else frames
                part = progress.frame + chunk * progress.step / max(progress.steps, 1)
                loop.call_soon_threadsafe(done.put_nowait, part)

            making = asyncio.create_task(asyncio.to_thread(self._model.make_scene, request, number, progress=report))
            making.add_done_callback(lambda _: done.put_nowait(None))
            try:
                while (part := await done.get()) is not None:
                    yield min(part / total, 1.0)
                entries, _ = await making
            finally:
                cancelled.append(True)
                await asyncio.wait([making])
            first += frames
            yield first / total
            some, size = [], 0
            for name, data in entries:
                some.append((name, data))
                size += len(data)
                if size > MESSAGE:
                    yield some
                    some, size = [], 0
            yield some

    async def remix(self, prompt: str, video: bytes, strength: float, arguments: list[str]) -> bytes:
        """Changes a video; returns the file. The command opens the model again, with the same options."""
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "before.mp4", Path(folder) / "after.mp4"
            before.write_bytes(video)
            line = [command.executable(), "render", "-o", str(after), "--model", self._source, *command.flags(self._options)]
            line += ["--video", str(before), f"--strength={strength}", *arguments, "--", prompt]
            await command.run_async(line)
            return after.read_bytes()
