"""Makes the jobs: gives them to the deployments of the models, which may be on any node and make latents, and writes the files here.

The command `soragen` decodes, marks, encodes and signs, so keys stay on this node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import time
from collections.abc import Callable
from typing import Any

import prometheus_client
import ray
from ray.serve.handle import DeploymentHandle

import soragen
from soragen import command

from .config import Config
from .files import pictures
from .jobs import FILES, Job, Jobs

ATTEMPTS = 3  # of a job whose worker dies
DISPATCHED = 256  # jobs that wait for a worker at a time; the others wait in the table
DECODED = 90  # percent: what is left is decoding and encoding
PERIOD = 0.5  # seconds between two writes of the progress of a job
LOOK = 2.0  # seconds between two looks at the table, if nobody wakes it
log = logging.getLogger("ray.serve")


class Dispatcher:
    """Runs in the event loop of the service."""

    def __init__(
        self, config: Config, jobs: Jobs, makers: dict[str, DeploymentHandle], metrics: prometheus_client.CollectorRegistry,
    ) -> None:
        self._config, self._jobs, self._makers = config, jobs, makers
        self._keep = 3600 * config.keep_hours
        self._tasks: dict[str, asyncio.Task] = {}
        self._woken, self._writers = asyncio.Event(), asyncio.Semaphore(config.writers)
        self._seconds = prometheus_client.Histogram(
            "soragen_job_seconds", "Time of a job from its creation to its end.", ["status"], registry=metrics,
            buckets=(1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600),
        )
        jobs.resume()
        self._loop = asyncio.create_task(self._dispatch())

    def wake(self) -> None:
        """There is a new job."""
        self._woken.set()

    def check(self) -> None:
        """Raises if jobs are no longer made."""
        if self._loop.done():
            raise RuntimeError("the dispatcher has stopped")

    async def cancel(self, job: str) -> None:
        """Ends a job that is being made."""
        if task := self._tasks.get(job):
            task.cancel()
            await asyncio.wait([task])

    async def _dispatch(self) -> None:
        """Begins queued jobs, and removes expired ones."""
        while True:
            self._woken.clear()
            with contextlib.suppress(Jobs.Failure):  # a full disk may have room again
                for job in self._jobs.queued(DISPATCHED):
                    if job.id not in self._tasks and len(self._tasks) < DISPATCHED:
                        task = self._tasks[job.id] = asyncio.create_task(self._run(job))
                        task.add_done_callback(lambda task, job=job: self._ended(job, task))
                for job in self._jobs.expired():
                    await asyncio.to_thread(self._jobs.delete, job)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK)

    def _ended(self, job: Job, task: asyncio.Task) -> None:
        self._tasks.pop(job.id, None)
        if not task.cancelled() and task.exception() is not None:
            log.error("job %s", job.id, exc_info=task.exception())
        elif len(self._tasks) >= DISPATCHED // 2:
            # Others wait in the table.
            self.wake()

    async def _run(self, job: Job) -> None:
        """Makes a job until it is completed, failed, or to be tried again."""
        try:
            attempts = self._jobs.take(job.id)
            if attempts == 0:
                return  # deleted
            if attempts > ATTEMPTS:
                raise soragen.GenerationError(f"the workers died {ATTEMPTS} times while they made it")
            await (self._remix(job) if job.remixed_from else self._make(job))
            self._jobs.complete(job.id, self._keep)
            self._seconds.labels("completed").observe(time.time() - job.created_at)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if isinstance(error, ray.exceptions.RayActorError):
                await persistently(lambda: self._jobs.requeue(job.id))
                self.wake()
                return
            code, message = cause(error)
            log.warning("job %s failed: %s", job.id, message)
            self._seconds.labels("failed").observe(time.time() - job.created_at)
            # Room for the table on a full disk.
            await asyncio.to_thread(shutil.rmtree, self._jobs.files(job.id), ignore_errors=True)
            await persistently(lambda: self._jobs.fail(job.id, code, message, self._keep))
        finally:
            shutil.rmtree(self._jobs.files(job.id) / "cache", ignore_errors=True)

    async def _make(self, job: Job) -> None:
        folder = self._jobs.files(job.id)
        cache = folder / "cache"
        await asyncio.to_thread(cache.mkdir, parents=True, exist_ok=True)
        request = self._request(job)
        making = self._maker(job).options(stream=True).make.remote(await asyncio.to_thread(request.packed))
        begun, told = False, 0.0
        try:
            async for part in making:
                begun = begun or self._jobs.begin(job.id)
                if not begun:  # deleted
                    making.cancel()
                    return
                if isinstance(part, list):
                    await asyncio.to_thread(soragen.import_entries, cache, part)
                elif time.monotonic() - told > PERIOD:
                    told = time.monotonic()
                    self._jobs.tell(job.id, int(part * DECODED))
        except asyncio.CancelledError:
            making.cancel()
            raise
        self._jobs.tell(job.id, DECODED)
        model = self._config.models[job.model]
        where = {"model": model.source, "options": model.options, "cache_dir": cache}
        line = command.render(request, folder / "video.mp4", **where, storyboard=request, arguments=self._signing())
        async with self._writers:
            await command.run_async(line)
            await pictures(folder / "video.mp4", float(job.seconds), folder)

    async def _remix(self, job: Job) -> None:
        before = self._jobs.files(job.remixed_from) / FILES["video"][0]
        try:
            video = await asyncio.to_thread(before.read_bytes)
        except OSError:
            raise soragen.NotFound("the video that is remixed is gone") from None
        if not self._jobs.begin(job.id):
            return
        arguments = [f"--label={self._config.label}"]
        remixing = self._maker(job).remix.remote(job.prompt, video, self._config.remix_strength, arguments)
        try:
            data = await remixing
        except asyncio.CancelledError:
            remixing.cancel()
            raise
        self._jobs.tell(job.id, DECODED)
        folder = self._jobs.files(job.id)
        await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
        await asyncio.to_thread((folder / "video.mp4").write_bytes, data)
        async with self._writers:
            await pictures(folder / "video.mp4", float(job.seconds), folder)

    def _maker(self, job: Job) -> DeploymentHandle:
        try:
            return self._makers[job.model]
        except KeyError:
            raise soragen.NotFound(f"the model {job.model} is no longer served") from None

    def _request(self, job: Job) -> soragen.Request:
        picture = self._jobs.files(job.id) / "picture"
        settings: dict[str, Any] = {}
        if job.picture:
            settings = {"image": picture} if self._config.input_reference == "image" else {"references": (picture,)}
        return soragen.Request(
            prompt=job.prompt, seconds=float(job.seconds), size=(job.width, job.height), seed=job.seed, policy=self._config.policy,
            label=self._config.label, watermark_key=self._config.watermark_key, **settings,
        )

    def _signing(self) -> list[str]:
        if self._config.certificate is None:
            return []
        return [f"--certificate={self._config.certificate}", f"--private-key={self._config.private_key}"]


def cause(error: Exception) -> tuple[str, str]:
    """Code and message of a failed job."""
    if isinstance(error, ray.exceptions.RayTaskError) and isinstance(error.cause, Exception):
        error = error.cause
    codes = {soragen.PromptRefused: "moderation_blocked", soragen.RequestError: "invalid_request", soragen.OutOfMemory: "out_of_memory"}
    code = next((code for kind, code in codes.items() if isinstance(error, kind)), "server_error")
    return code, str(error) or type(error).__name__


async def persistently(write: Callable[[], None]) -> None:
    """Calls `write` until the table can be written: it may be on a full disk."""
    while True:
        try:
            return write()
        except Jobs.Failure:
            await asyncio.sleep(LOOK)
