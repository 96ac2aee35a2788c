"""The actor that makes scenes. It opens the model once."""

from __future__ import annotations

from typing import Any

import soragen


class Worker:
    """Makes the scenes of one request. `progress` is called while `make` runs."""

    def __init__(self, source: str, options: dict[str, Any], request: soragen.Request) -> None:
        self._source, self._options, self._request = source, options, request
        self._model: soragen.Model | None = None
        self._frame = 0

    def ready(self) -> None:
        """Opens the model, once. Not in the constructor, whose exceptions Ray tells only as text."""
        if self._model is None:
            self._model = soragen.Model.open(self._source, **self._options)

    def scenes(self) -> list[tuple[int, list[str]]]:
        """Frames of each scene, and the names of the entries with its latents."""
        return list(zip(self._model.scenes(self._request), self._model.film_entries(self._request), strict=True))

    def make(self, scene: int, first: int) -> list[tuple[str, bytes]]:
        """The entries of a scene whose first frame is `first`."""
        self._frame = 0

        def report(progress: soragen.Progress) -> None:
            self._frame = progress.frame - first

        entries, _ = self._model.make_scene(self._request, scene, progress=report)
        return entries

    def progress(self) -> int:
        """Frames of the current scene so far. Those of a whole clip come all at once."""
        return self._frame
