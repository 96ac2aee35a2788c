"""What to generate: `Request`, `Shot` and `Storyboard`. They are plain values, which can be pickled."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import _soragen

if TYPE_CHECKING:
    import numpy as np

    # A file, the bytes of a file, or `uint8` `[H, W, 3]`.
    Picture = str | os.PathLike[str] | bytes | np.ndarray
    # `bank:NAME`, a file, or a name and the bytes of a file.
    Reference = str | os.PathLike[str] | tuple[str, bytes]


@dataclass(frozen=True)
class Shot:
    """A part of the video with its own prompt.

    `start` is in seconds. `seed`, `references` and `motion_path` are those of the request if they are not set. After a `cut` the video
    starts again; otherwise it continues. `image` is what it starts from, only after a cut.
    """

    start: float
    prompt: str
    seed: int | None = None
    image: Picture | None = None
    references: Sequence[Reference] = ()
    motion_path: str | None = None
    cut: bool = False


@dataclass(frozen=True)
class Storyboard:
    """The shots of a video, and when it ends, in seconds (`None`: the last shot decides)."""

    shots: tuple[Shot, ...]
    end: float | None = None

    @classmethod
    def open(cls, text_or_path: str | os.PathLike[str]) -> Storyboard:
        """Reads a storyboard: TOML, SubRip or WebVTT, or `0:00 a cat wakes | 0:04 the cat runs`.

        Raises `RequestError` or `FileError` with the line of a mistake, and `NotFound`.
        """
        shots, end = _soragen.read_storyboard(os.fspath(text_or_path))
        return cls(tuple(Shot(*shot) for shot in shots), end)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Everything that decides the frames, apart from the model. `None` is the model's own value.

    - `prompt`, `negative_prompt`: what to show, and what not to (with a guidance scale above 1).
    - `shots`: in place of `prompt`; the first starts at 0. `blend_chunks`: over how many chunks a new prompt gains weight.
    - `image`, `last_image`: what the video starts from and ends with. `loop_`: it ends where it begins.
    - `references`: pictures of subjects; `motion_path`: where they are, such as `0 left ground | 2 right up` (seconds).
    - `size`: width and height in pixels. `frames` or `seconds`: the length; `seconds=inf` is a video without an end.
    - `seed`, `steps`, `guidance_scale`, `guidance_scale_2`, `shift`: of the sampler.
    - `initial_latents`: noise to start from, `float32` `[C, T, h, w]`.
    - `video`: a video to change, `uint8` `[T, H, W, 3]`, by `strength` (0 keeps it, 1 ignores it), less where it moves (`motion_noise`).
    - `past`: a video to continue, `uint8` `[T, H, W, 3]`.
    - `control`, `mask`: a video that steers a VACE model, `uint8` `[T, H, W, 3]`, and where it may paint, `uint8` `[T, H, W]`.
    - `policy` (a file, or the bytes of one), `audit_log`: every prompt passes the built-in policy or this one.
    - `label`: `none`, `ai`, `ai-generated` or `cn`. `watermark`: invisible, with the public key or `watermark_key`.
    """

    prompt: str = ""
    shots: Sequence[Shot] = ()
    blend_chunks: int = 0
    negative_prompt: str | None = None
    image: Picture | None = None
    last_image: Picture | None = None
    loop_: bool = False
    references: Sequence[Reference] = ()
    motion_path: str | None = None
    size: tuple[int, int] | None = None
    frames: int | None = None
    seconds: float | None = None
    seed: int = 0
    steps: int | None = None
    guidance_scale: float | None = None
    guidance_scale_2: float | None = None
    shift: float | None = None
    initial_latents: np.ndarray | None = None
    video: np.ndarray | None = None
    strength: float = 0.7
    motion_noise: float = 0.1
    past: np.ndarray | None = None
    control: np.ndarray | None = None
    mask: np.ndarray | None = None
    control_scale: float = 1.0
    policy: str | os.PathLike[str] | bytes | None = None
    audit_log: str | os.PathLike[str] | None = None
    label: str = "none"
    watermark: bool = True
    watermark_key: str | os.PathLike[str] | None = None
    watermark_strength: float = 1.0

    @classmethod
    def of_storyboard(cls, board: Storyboard, **settings: Any) -> Request:
        """A request for the shots of a storyboard, until its end."""
        if board.end is not None and not settings.keys() & {"frames", "seconds"}:
            settings["seconds"] = board.end
        return cls(shots=board.shots, **settings)

    def packed(self) -> Request:
        """The same request with the bytes of its pictures and its policy in place of their paths, for a worker on another machine.

        It has no audit log and no watermark key, which stay here: a worker makes latents only. Raises `OSError` for a file that cannot be
        read.
        """
        shots = tuple(
            dataclasses.replace(shot, image=_packed(shot.image), references=_references(shot.references)) for shot in self.shots
        )
        return dataclasses.replace(
            self, shots=shots, image=_packed(self.image), last_image=_packed(self.last_image), references=_references(self.references),
            policy=_packed(self.policy), audit_log=None, watermark_key=None,
        )


def _packed(picture: Picture | None) -> Picture | None:
    return Path(picture).read_bytes() if isinstance(picture, (str, os.PathLike)) else picture


def _references(references: Sequence[Reference]) -> tuple[Reference, ...]:
    def packed(reference: Reference) -> Reference:
        if isinstance(reference, tuple) or os.fspath(reference).startswith("bank:"):
            return reference
        path = Path(reference)
        return path.name, path.read_bytes()

    return tuple(packed(reference) for reference in references)
