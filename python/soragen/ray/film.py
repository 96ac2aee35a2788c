"""`film`: the scenes of a storyboard, made by workers, decoded and encoded here."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from tqdm import tqdm

import soragen
from soragen import command
from soragen.request import Request, Storyboard

from .pool import FilmError, Pool
from .worker import Worker

# Bytes that the cache may have while a film is made: nothing is removed.
WHOLE_FILM = 1 << 62


@dataclass(frozen=True)
class Report:
    """What a film took."""

    scenes: int
    made: int  # scenes that were made; the others were in the cache
    lost: int  # scenes that were given to a worker that died
    seconds: float  # for the scenes


def film(
    storyboard: str | os.PathLike[str] | Request, out: str | os.PathLike[str] | None, address: str | None = None, *,
    model: str = "builtin", options: dict[str, Any] | None = None, workers: int | None = None, cpus: float | None = None,
    cache_dir: str | os.PathLike[str] | None = None, arguments: Sequence[str] = (), quiet: bool = False, **settings: Any,
) -> Report:
    """Makes a film on a Ray cluster.

    - `storyboard`: what `Storyboard.open` opens, with `settings` of a `Request`; or a whole `Request`.
    - `out`: the file, as `soragen render -o` takes it; `None` makes the latents only. It needs the command `soragen`.
    - `address`: of the cluster, such as `auto` or `ray://HOST:10001`; `None` starts Ray on this machine.
    - `model`, `options`: as `Model.open` takes them, on the machines of the workers.
    - `workers`: how many; by default one for each GPU of the cluster, else one for every two CPUs. `cpus`: of each worker.
    - `cache_dir`: where finished scenes are kept, by default `soragen` in the user's cache folder. The same film goes on from there.
    - `arguments`: more of `soragen render`, such as `--certificate`, which only this machine sees.

    Every prompt passes the policy here and on the workers. Raises the exceptions of the package, and `FilmError` if no worker is left.
    Ctrl-C cancels; finished scenes are kept.
    """
    request = storyboard
    if not isinstance(request, Request):
        request = Request.of_storyboard(Storyboard.open(storyboard), **settings)
    cache = Path(cache_dir) if cache_dir is not None else command.cache_folder()
    options = options or {}
    if out is not None:
        where = {"model": model, "options": options, "cache_dir": cache}
        render = command.render(request, out, **where, storyboard=storyboard, arguments=arguments)
    for prompt in [shot.prompt for shot in request.shots] or [request.prompt]:
        soragen.admit(prompt, policy=request.policy, audit_log=request.audit_log)
    with connected(address), pool_of(model, options, request.packed(), workers, cpus) as pool:
        report, names = make_scenes(pool, cache, quiet)
    if out is not None:
        if not all((cache / name).exists() for name in names):
            raise FilmError(f"scenes have been removed from the cache {cache} by another program; run the same command again")
        command.run(render)
    return report


def make_scenes(pool: Pool, cache: Path, quiet: bool) -> tuple[Report, list[str]]:
    """Makes the scenes that the cache does not have. Returns the names of the entries of all."""
    scenes = pool.ask("scenes")
    begin, missing, frame = time.monotonic(), [], 0
    for number, (frames, names) in enumerate(scenes):
        # Those that are there are used: they are not the next to be removed.
        if not all(touched(cache / name) for name in names):
            missing.append((number, frame))
        frame += frames
    bars: dict[int, tqdm] = {}
    total = tqdm(total=len(scenes), initial=len(scenes) - len(missing), unit="scene", desc="film", disable=quiet or None)

    def done(scene: int, entries: list[tuple[str, bytes]]) -> None:
        # A film may be larger than the cache usually is.
        soragen.import_entries(cache, entries, WHOLE_FILM)
        total.update()

    def look(running: dict[int, Any]) -> None:
        for scene in bars.keys() - running.keys():
            bars.pop(scene).close()
        if total.disable:
            return
        asked = {actor.progress.remote(): scene for scene, actor in running.items()}
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=0.2) if asked else ([], [])
        for reference in answered:
            scene = asked[reference]
            if scene not in bars:
                bars[scene] = tqdm(total=scenes[scene][0], unit="frame", desc=f"scene {scene}", leave=False)
            with contextlib.suppress(ray.exceptions.RayActorError):
                bars[scene].n = ray.get(reference)
                bars[scene].refresh()

    try:
        pool.make(missing, done, look)
    finally:
        for bar in (*bars.values(), total):
            bar.close()
    report = Report(len(scenes), len(missing), pool.lost, time.monotonic() - begin)
    return report, [name for _, names in scenes for name in names]


def touched(entry: Path) -> bool:
    """Whether an entry is there; it is marked as used."""
    try:
        os.utime(entry)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or Ray on this machine. One that is open already is used, and stays open."""
    if ray.is_initialized():
        yield
        return
    here = {"include_dashboard": False} if address is None else {}
    ray.init(address=address or "local", log_to_driver=False, logging_level="error", **here)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def pool_of(
    model: str, options: dict[str, Any], request: Request, workers: int | None, cpus: float | None,
) -> Iterator[Pool]:
    """Workers on all nodes, one for each GPU, else one for every two CPUs. They are killed at the end, with what they are making."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    needs: dict[str, float] = {"num_gpus": 1} if gpus else {}
    needs["num_cpus"] = cpus if cpus is not None else 1 if gpus else 2
    count = workers or gpus or max(1, int(resources.get("CPU", 1) // needs["num_cpus"]))
    if not gpus:
        # A worker computes with the CPUs that it has asked for.
        options = {"threads": max(1, int(needs["num_cpus"])), **options}
    # One thread makes a scene, another one tells its progress. Every restart of an actor may lose a scene; the pool counts these.
    actor = ray.remote(Worker).options(max_restarts=-1, max_task_retries=0, max_concurrency=2, scheduling_strategy="SPREAD", **needs)
    actors = [actor.remote(model, options, request) for _ in range(count)]
    try:
        yield Pool(actors)
    finally:
        for each in actors:
            ray.kill(each)
