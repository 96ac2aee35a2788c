"""The deployment that has the model and makes latents."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
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
        first = 0
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
                    yield min(part / max(sum(scenes), 1), 1.0)
                entries, _ = await making
            finally:
                cancelled.append(True)
                await asyncio.wait([making])
            first += frames
            yield first / max(sum(scenes), 1)
            some: list[tuple[str, bytes]] = []
            for entry in entries:
                some.append(entry)
                if sum(len(data) for _, data in some) > MESSAGE:
                    yield some
                    some = []
            yield some

    async def remix(self, prompt: str, video: bytes, strength: float, arguments: list[str]) -> bytes:
        """Changes a video; returns the file. The command opens the model again, with the same options."""
        flags = ("device", "precision", "decoder", "threads")
        arguments = [*arguments, *(f"--{flag}={self._options[flag]}" for flag in flags if flag in self._options)]
        arguments += ["--offload"] if self._options.get("offload") else []
        with tempfile.TemporaryDirectory() as folder:
            before, after = Path(folder) / "before.mp4", Path(folder) / "after.mp4"
            before.write_bytes(video)
            line = [command.executable(), "render", "-o", str(after), "--model", self._source, "--video", str(before), f"--strength={strength}"]
            running = await asyncio.create_subprocess_exec(
                *line, *arguments, "--", prompt, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            try:
                _, said = await running.communicate()
            except asyncio.CancelledError:
                with contextlib.suppress(ProcessLookupError):
                    running.kill()
                raise
            if running.returncode != 0:
                raise soragen.GenerationError(said.decode(errors="replace").strip())
            return after.read_bytes()
