"""The command `soragen`, which decodes, encodes, marks and signs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
    # Workers have another working directory.
    return os.path.abspath(found)


def cache_folder() -> Path:
    """The cache of the user."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(caches) / "soragen"


def render(
    request: Request, out: str | os.PathLike[str], *, model: str, options: Mapping[str, Any], cache_dir: str | os.PathLike[str],
    storyboard: str | os.PathLike[str] | Request, arguments: Sequence[str] = (),
) -> list[str]:
    """The command line that plays a request from the cache into a file, with the decoder of the `options` of `Model.open`. Raises
    `RequestError` for what no option can say."""
    line = [executable(), "render", "--output", os.fspath(out), "--model", model, "--cache-dir", os.fspath(cache_dir)]
    # `offload`: nothing is loaded of the transformer, which is not used.
    line += ["--offload", *flags({"decoder": options["decoder"]} if "decoder" in options else {})]
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


def flags(options: Mapping[str, Any]) -> list[str]:
    """The options of `Model.open` as those of the command."""
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items() if value is not False]


async def run_async(line: Sequence[str]) -> None:
    """As `run`, in an event loop. Kills the command if the caller is cancelled."""
    running = await asyncio.create_subprocess_exec(*line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, said = await running.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        raise
    check(line, running.returncode, said.decode(errors="replace"))


def run(line: Sequence[str]) -> None:
    """Runs a command line. Raises `GenerationError` with what it said."""
    done = subprocess.run(line, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    check(line, done.returncode, done.stderr.decode(errors="replace"))


def check(line: Sequence[str], status: int | None, said: str) -> None:
    if status != 0:
        raise GenerationError(f"{line[0]} failed: {said.strip() or status}")
