"""The actor that makes scenes. It opens the model once."""

from __future__ import annotations

import threading
from typing import Any

import soragen


class Worker:
    """Makes the scenes of one request. `progress` and `cancel` are called while `make` runs."""

    def __init__(self, source: str, options: dict[str, Any], request: soragen.Request) -> None:
        self._source, self._options, self._request = source, options, request
        self._model: soragen.Model | None = None
        self._frame = 0
        self._cancelled = threading.Event()

    def ready(self) -> None:
        """Opens the model, once. Not in the constructor, whose exceptions Ray tells only as text."""
        if self._model is None:
            self._model = soragen.Model.open(self._source, **self._options)

    def scenes(self) -> list[tuple[int, list[str]]]:
        """Frames of each scene, and the names of the entries with its latents."""
        frames = self._model.scenes(self._request)
        return [(count, self._model.scene_entries(self._request, i)) for i, count in enumerate(frames)]

    def make(self, scene: int, first: int) -> list[tuple[str, bytes]]:
        """The entries of a scene whose first frame is `first`."""
        self._frame = 0
        self._cancelled.clear()

        def report(progress: soragen.Progress) -> None:
            if self._cancelled.is_set():
                raise soragen.Cancelled("the film was cancelled")
            self._frame = progress.frame - first

        entries, _ = self._model.make_scene(self._request, scene, progress=report)
        return entries

    def progress(self) -> int:
        """Frames of the current scene so far. Those of a whole clip come all at once."""
        return self._frame

    def cancel(self) -> None:
        """Ends `make` with the next step."""
        self._cancelled.set()
