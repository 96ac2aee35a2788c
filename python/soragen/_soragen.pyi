from collections.abc import Callable, Iterator
from os import PathLike
from types import TracebackType
from typing import Any

import numpy as np

from .request import Request

__version__: str

class ModelInfo:
    """What a model can do, and its default values. Lengths are frames."""

    name: str
    size: tuple[int, int]
    frame_rate: tuple[int, int]
    natural_frames: int
    latent_frames: int
    chunk_frames: int
    past_frames: int
    max_frames: int | None
    causal: bool
    remembers_shots: bool
    image_to_video: bool
    needs_image: bool
    last_image: bool
    control: bool
    max_references: int
    steps: int
    guidance_scale: float
    shift: float
    negative_prompt: str
    knows: dict[str, list[str]]
    @staticmethod
    def read(source: str) -> ModelInfo:
        """Reads it from the configuration of a model, without its weights. Raises `NotFound` or `FileError`."""
    def makes(self, width: int, height: int) -> bool:
        """Whether the model makes frames of this size."""
    def size_like(self, width: int, height: int) -> tuple[int, int]:
        """The size of the model whose aspect ratio is nearest to this one."""

class Progress:
    """How far a session is. `phase` is `text`, `denoise` or `decode`; `step` of `steps` in this chunk."""

    phase: str
    chunk: int
    step: int
    steps: int
    frame: int
    total_frames: int | None

class Stats:
    """Forward passes of the transformer, and frames whose latents came from the cache."""

    forwards: int
    cached: int

class Session(Iterator[np.ndarray]):
    """One running generation. Iterating yields `uint8` `[T, H, W, 3]` until the end."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
    @property
    def frame_rate(self) -> tuple[int, int]:
        """Frames per second, as a fraction."""
    @property
    def total_frames(self) -> int | None:
        """Frames of the whole video; `None` without an end."""
    @property
    def generation_id(self) -> str | None:
        """What the watermark says; `None` without a watermark."""
    @property
    def stats(self) -> Stats | None:
        """What was computed so far; `None` after `close`."""
    def next_chunk(self) -> np.ndarray | None:
        """The next frames, `uint8` `[T, H, W, 3]`; `None` after the last."""
    def next_latents(self) -> np.ndarray | None:
        """The latents of the next chunk or whole clip, `float32` `[C, T, h, w]`, in place of its frames; `None` after the last."""
    def set_prompt(self, prompt: str) -> None:
        """Shows another prompt from the next chunk on; for causal models."""
    def push_frames(self, frames: np.ndarray) -> None:
        """More frames of the video that goes in, `uint8` `[T, H, W, 3]`."""
    def close(self) -> None:
        """Cancels what runs, and frees the session. A waiting call raises `Cancelled`."""
    def __next__(self) -> np.ndarray: ...
    def __enter__(self) -> Session: ...
    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...

class Model:
    @staticmethod
    def open(
        source: str = "builtin", *, device: str = "auto", precision: str = "auto", decoder: str = "auto", offload: bool = False, threads: int = 0
    ) -> Model: ...
    @property
    def info(self) -> ModelInfo: ...
    def start(
        self, request: Request, *, cache_dir: str | PathLike[str] | None = None, progress: Callable[[Progress], None] | None = None
    ) -> Session: ...
    def scenes(self, request: Request) -> list[int]: ...
    def film_entries(self, request: Request) -> list[list[str]]: ...
    def make_scene(
        self, request: Request, scene: int, *, progress: Callable[[Progress], None] | None = None
    ) -> tuple[list[tuple[str, bytes]], Stats]: ...

def read_storyboard(text_or_path: str) -> tuple[list[tuple[Any, ...]], float | None]: ...
def import_entries(folder: str | PathLike[str], entries: list[tuple[str, bytes]], size: int = ...) -> None:
    """Adds the entries that `Model.make_scene` returned to the cache in `folder`. Raises `FileError` for a damaged one."""

def admit(prompt: str, *, policy: str | PathLike[str] | None = None, audit_log: str | PathLike[str] | None = None) -> None:
    """Raises `PromptRefused` if the built-in policy, or the one in the file `policy`, refuses the prompt. Writes to the audit log."""

def picture_size(data: bytes) -> tuple[int, int]:
    """Width and height of the picture in the bytes of a file. Raises `ValueError` if they cannot be decoded."""

def cache_usage(folder: str | PathLike[str]) -> tuple[int, int, int]:
    """Chunks, prompts and bytes in the cache in `folder`."""
