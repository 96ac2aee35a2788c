"""Video from text, or from an image and text, by an open diffusion model that runs in this process.

    import soragen

    model = soragen.Model.open("builtin")
    with model.session("a red fox runs over the snow", seconds=6) as session:
        for frames in session:  # uint8 [T, H, W, 3]
            ...

Frames have an invisible watermark, and every prompt passes a policy, as everywhere in soragen. The interpreter's lock is released while the
engine works; Ctrl-C and `Session.close` cancel within one block of the transformer.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from . import _soragen, command
from ._soragen import ModelInfo, Progress, Session, Stats, __version__, admit, cache_usage, import_entries, picture_size
from .errors import (
    Cancelled, DeviceError, Error, FileError, GenerationError, NotFound, OutOfMemory, PromptRefused, RequestError,
)
from .request import Request, Shot, Storyboard

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "Cancelled", "DeviceError", "Error", "FileError", "GenerationError", "Model", "ModelInfo", "NotFound", "OutOfMemory", "Progress",
    "PromptRefused", "Request", "RequestError", "Session", "Shot", "Stats", "Storyboard", "__version__", "admit", "cache_usage",
    "import_entries", "picture_size", "render",
]


class Model:
    """An opened model. Sessions share its weights."""

    def __init__(self, model: _soragen.Model) -> None:
        self._model = model

    @classmethod
    def open(
        cls, source: str | os.PathLike[str] = "builtin", *, device: str = "auto", precision: str = "auto", decoder: str = "auto",
        offload: bool = False, threads: int = 0,
    ) -> Model:
        """Opens `builtin`, a folder in diffusers' or Wan's layout, or `hf:OWNER/NAME` from the local hub cache.

        `device` is `auto`, `cpu`, `cuda:N` or `metal`; `precision` `auto`, `f32`, `bf16`, `f16`, `int8` or `gguf`; `decoder` `auto`, `full` or
        `taehv`. `threads` is 0 for all cores. Raises `NotFound`, `FileError`, `DeviceError` or `OutOfMemory`.
        """
        options = {"device": device, "precision": precision, "decoder": decoder, "offload": offload, "threads": threads}
        return cls(_soragen.Model.open(os.fspath(source), **options))

    @property
    def info(self) -> ModelInfo:
        """What the model can do, and its default values."""
        return self._model.info

    def session(
        self, request: Request | str, *, cache_dir: str | os.PathLike[str] | None = None,
        progress: Callable[[Progress], None] | None = None, **settings: Any,
    ) -> Session:
        """Starts a generation: a `Request`, or a prompt with the settings of one.

        The session is an iterator of frames, `uint8` `[T, H, W, 3]`, RGB, and a context manager that closes it. `progress` is called on
        another thread. With `cache_dir`, latents and prompts are kept there and used again. Raises `RequestError` or `PromptRefused`.
        """
        return self._model.start(_request(request, settings), cache_dir=cache_dir, progress=progress)

    def render(self, request: Request | str, **settings: Any) -> np.ndarray:
        """All frames of a video, `uint8` `[T, H, W, 3]`; otherwise as `session`."""
        import numpy as np

        with self.session(request, **settings) as session:
            return np.concatenate(list(session))

    def scenes(self, request: Request | str, **settings: Any) -> list[int]:
        """Frames of each scene of a request: of what lies between two cuts. A model that remembers shots has one scene."""
        return self._model.scenes(_request(request, settings))

    def film_entries(self, request: Request | str, **settings: Any) -> list[list[str]]:
        """The names of the entries with the latents of each scene, which `make_scene` returns. Makes nothing."""
        return self._model.film_entries(_request(request, settings))

    def make_scene(
        self, request: Request | str, scene: int, *, progress: Callable[[Progress], None] | None = None, **settings: Any,
    ) -> tuple[list[tuple[str, bytes]], Stats]:
        """Makes the latents of one scene, counted from 0, without frames.

        Returns entries for `import_entries` on any machine, and what was computed. A session of the same request, with a cache that has all
        its scenes, runs no transformer.
        """
        return self._model.make_scene(_request(request, settings), scene, progress=progress)

    def __repr__(self) -> str:
        return repr(self._model)


def render(prompt: Request | str, *, model: str | os.PathLike[str] | Model = "builtin", **settings: Any) -> np.ndarray:
    """All frames of a video, `uint8` `[T, H, W, 3]`.

    `model` is an opened model, or what `Model.open` opens. The other settings are those of `Request`, `cache_dir` and `progress`.
    """
    opened = model if isinstance(model, Model) else Model.open(model)
    return opened.render(prompt, **settings)


def _request(request: Request | str, settings: dict[str, Any]) -> Request:
    if isinstance(request, str):
        return Request(prompt=request, **settings)
    return dataclasses.replace(request, **settings)
