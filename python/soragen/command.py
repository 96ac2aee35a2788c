"""The command `soragen`, which decodes, encodes, marks and signs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .errors import GenerationError, NotFound, RequestError
from .request import Request

# Fields of a request and the options of `soragen render` for them.
OPTIONS = {
    "negative_prompt": "--negative", "image": "--image", "last_image": "--last-image", "motion_path": "--motion-path", "frames": "--frames",
    "seconds": "--duration", "seed": "--seed", "steps": "--steps", "guidance_scale": "--guidance", "guidance_scale_2": "--guidance-2",
    "shift": "--shift", "blend_chunks": "--blend-chunks", "policy": "--policy", "audit_log": "--audit-log", "label": "--label",
    "watermark_key": "--watermark-key", "watermark_strength": "--watermark-strength", "control_scale": "--control-scale",
}
# Those that only a program can give.
ONLY_HERE = ("initial_latents", "video", "past", "control", "mask")


def executable() -> str:
    """The path of the command: that of `SORAGEN`, else the one in `PATH`. Raises `NotFound`."""
    found = shutil.which(os.environ.get("SORAGEN", "soragen"))
    if found is None:
        raise NotFound("the command soragen is missing, which encodes the file; build it with `make build`, and set SORAGEN to its path")
    return found


def cache_folder() -> Path:
    """The cache of the user."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "soragen"


def render(
    request: Request, out: str | os.PathLike[str], *, model: str, cache_dir: str | os.PathLike[str],
    storyboard: str | os.PathLike[str] | Request, arguments: Sequence[str] = (),
) -> list[str]:
    """The command line that plays a request from the cache into a file. Raises `RequestError` for what no option can say."""
    line = [executable(), "render", "--output", os.fspath(out), "--model", model, "--cache-dir", os.fspath(cache_dir)]
    for field in ONLY_HERE:
        if getattr(request, field) is not None:
            raise RequestError(f"a film cannot have {field}", field)
    shown = [f"--storyboard={os.fspath(storyboard)}"] if not isinstance(storyboard, Request) else ["--", request.prompt]
    if isinstance(storyboard, Request) and request.shots:
        raise RequestError("give the storyboard in place of a request with shots", "storyboard")
    for field, option in OPTIONS.items():
        value = getattr(request, field)
        if value is None or value == getattr(Request, field, None):
            continue
        if isinstance(value, bytes) and field == "policy":
            raise RequestError("the policy of a film is a file", field)
        if field in ("image", "last_image") and not isinstance(value, (str, os.PathLike)):
            raise RequestError(f"the {field} of a film is a file", field)
        line += [f"{option}={os.fspath(value) if isinstance(value, os.PathLike) else value}"]
    for reference in request.references:
        if isinstance(reference, tuple):
            raise RequestError("a reference of a film is a file or bank:NAME", "reference")
        line += [f"--reference={os.fspath(reference)}"]
    if request.size is not None:
        line += [f"--size={request.size[0]}x{request.size[1]}"]
    if request.loop_:
        line += ["--loop"]
    if not request.watermark:
        line += ["--no-watermark"]
    return [*line, *arguments, *shown]


def run(line: Sequence[str]) -> None:
    """Runs a command line. Raises `GenerationError` with what it said."""
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise GenerationError(f"{line[0]} failed: {done.stderr.strip() or done.returncode}")
