"""The service: the interface of OpenAI's videos over Ray Serve.

One replica, on the node with the folder, has the table of jobs and the files, and answers clients. `dispatcher.py` makes the jobs.
"""

# Ray Serve copies the class with the globals of this module when it is defined: what it uses stands above it. FastAPI needs annotations
# that are evaluated, so there is no `from __future__ import annotations`.

import asyncio
import hmac
import secrets
import shutil
import time
from typing import Annotated, Any

import prometheus_client
from fastapi import FastAPI, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.exceptions import HTTPException

import soragen

from . import schema
from .body import Body, read_body
from .config import Config, ModelConfig
from .dispatcher import Dispatcher
from .errors import ApiError, api_error, http_error, table_error, validation_error
from .jobs import FILES, OPEN, Job, Jobs
from .worker import Maker

app = FastAPI(title="soragen", version=soragen.__version__, description="Video from text: the interface of OpenAI's videos.")
app.add_exception_handler(ApiError, api_error)
app.add_exception_handler(HTTPException, http_error)
app.add_exception_handler(RequestValidationError, validation_error)
app.add_exception_handler(Jobs.Failure, table_error)

VideoId = Annotated[str, Path(max_length=64, description="Of a video.")]


@serve.deployment(num_replicas=1, max_ongoing_requests=1000, health_check_period_s=5)
@serve.ingress(app)
class Videos:
    """The replica that answers clients."""

    async def __init__(self, config: Config, makers: dict[str, DeploymentHandle]) -> None:
        self._config = config
        self._info = {name: soragen.ModelInfo.read(model.source) for name, model in config.models.items()}
        self._jobs = Jobs(config.folder)
        self._metrics = prometheus_client.CollectorRegistry()
        self._by_status = prometheus_client.Gauge("soragen_jobs", "Jobs by status.", ["status"], registry=self._metrics)
        self._dispatcher = Dispatcher(config, self._jobs, makers, self._metrics)

    def check_health(self) -> None:
        """Ray Serve restarts the replica if this raises."""
        self._dispatcher.check()

    # The interface

    @app.post("/v1/videos", response_model=schema.Video, responses=schema.ERRORS, openapi_extra=schema.CREATE)
    async def create(self, request: Request) -> Any:
        """Creates a video; the answer is a job."""
        self._check(request)
        body = await read_body(request, self._config.limits.upload_bytes)
        prompt = await self._prompt(body)
        model = self._model(body.text("model"))
        width, height = self._size(model, body.text("size"))
        seconds = self._seconds_of(body, model)
        seed = body.integer("seed", 0, 2**63 - 1)
        picture = await self._picture(body, model)
        job = self._new_job(model, prompt, seconds, width, height, picture=picture is not None)
        job.seed = secrets.randbelow(2**31) if seed is None else seed
        return await self._add(job, picture)

    @app.get("/v1/videos", response_model=schema.Videos, responses=schema.ERRORS)
    async def list_videos(
        self, request: Request, after: Annotated[str | None, Query(max_length=64)] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20, order: Annotated[str, Query(pattern="^(asc|desc)$")] = "desc",
    ) -> Any:
        """Lists videos in the order of their creation."""
        self._check(request)
        before = None
        if after is not None and (before := self._jobs.get(after)) is None:
            raise ApiError(400, f"there is no video {after}", param="after")
        found, more = self._jobs.page(before, limit, order == "asc")
        data = [job.answer() for job in found]
        return JSONResponse({
            "object": "list", "data": data, "has_more": more, "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
        })

    @app.get("/v1/videos/{video_id}", response_model=schema.Video, responses=schema.ERRORS)
    async def retrieve(self, request: Request, video_id: VideoId) -> Any:
        """A video and its progress."""
        self._check(request)
        job = self._job(video_id)
        wait = {"openai-poll-after-ms": "1000"} if job.status in OPEN else {}
        return JSONResponse(job.answer(), headers=wait)

    @app.delete("/v1/videos/{video_id}", response_model=schema.Deleted, responses=schema.ERRORS)
    async def delete(self, request: Request, video_id: VideoId) -> Any:
        """Removes a video; one that is being made is cancelled."""
        self._check(request)
        self._job(video_id)
        await self._dispatcher.cancel(video_id)
        await asyncio.to_thread(self._jobs.delete, video_id)
        return JSONResponse({"id": video_id, "object": "video.deleted", "deleted": True})

    @app.get("/v1/videos/{video_id}/content", response_class=FileResponse, responses=schema.CONTENT)
    async def content(
        self, request: Request, video_id: VideoId, variant: Annotated[str, Query(pattern="^(video|thumbnail|spritesheet)$")] = "video",
    ) -> Any:
        """The file of a video: MP4, WebP or JPEG."""
        self._check(request)
        job = self._job(video_id)
        if job.status != "completed":
            raise ApiError(400, f"the video is {job.status.replace('_', ' ')}; it has no files", code="video_not_ready")
        name, kind = FILES[variant]
        file = self._jobs.files(video_id) / name
        if not file.exists():
            raise ApiError(404, f"the {variant} is gone; it was removed from the disk", code="not_found")
        return FileResponse(file, media_type=kind, filename=f"{video_id}{file.suffix}")

    @app.post("/v1/videos/{video_id}/remix", response_model=schema.Video, responses=schema.ERRORS, openapi_extra=schema.REMIX)
    async def remix(self, request: Request, video_id: VideoId) -> Any:
        """Makes a video again with another prompt; the answer is a new job."""
        self._check(request)
        job = self._job(video_id)
        body = await read_body(request, self._config.limits.upload_bytes)
        prompt = await self._prompt(body)
        if job.status != "completed":
            raise ApiError(400, f"the video is {job.status.replace('_', ' ')}; only a finished one can be remixed", code="video_not_ready")
        if job.model not in self._info:
            raise ApiError(400, f"the model {job.model} is no longer served; create a new video", code="model_not_found")
        if self._info[job.model].needs_image:
            raise ApiError(400, f"{job.model} makes video from an image, and cannot change one; create a new video", code="remix_not_supported")
        if self._config.certificate or self._config.watermark_key:
            message = "this service marks or signs with its own keys, which do not leave it: it cannot remix; create a new video"
            raise ApiError(400, message, code="remix_not_supported")
        new = self._new_job(job.model, prompt, job.seconds, job.width, job.height, remixed_from=job.id)
        return await self._add(new, None)

    @app.get("/v1/models", response_model=schema.Models, responses=schema.ERRORS)
    async def models(self, request: Request) -> Any:
        """The models."""
        self._check(request)
        data = [{"id": name, "object": "model", "created": 0, "owned_by": "soragen"} for name in self._config.models]
        return JSONResponse({"object": "list", "data": data})

    @app.get("/healthz", response_model=schema.Health)
    async def health(self) -> Any:
        """Whether the service works; how many jobs are open."""
        return JSONResponse({"status": "ok", "open_jobs": self._jobs.count_open()})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(self) -> Any:
        """For Prometheus."""
        counts = self._jobs.counts()
        for status in (*OPEN, "completed", "failed"):
            self._by_status.labels(status).set(counts.get(status, 0))
        return Response(prometheus_client.generate_latest(self._metrics), media_type="text/plain")

    # What a request asks for

    def _check(self, request: Request) -> None:
        """Refuses a request without a token."""
        if not self._config.tokens:
            return
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        known = [hmac.compare_digest(token.strip().encode(), each.encode()) for each in self._config.tokens]
        if scheme.lower() != "bearer" or not any(known):
            message = "the token is missing or wrong; send `Authorization: Bearer TOKEN`"
            raise ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})

    def _job(self, video_id: str) -> Job:
        job = self._jobs.get(video_id)
        if job is None:
            raise ApiError(404, "there is no such video; it may have been deleted, or has expired", code="not_found", param="video_id")
        return job

    async def _prompt(self, body: Body) -> str:
        prompt = (body.text("prompt") or "").strip()
        limit = self._config.limits.prompt_characters
        if not prompt:
            raise ApiError(400, "the prompt is empty; say what to show", param="prompt")
        if len(prompt) > limit:
            raise ApiError(400, f"the prompt has {len(prompt)} characters; at most {limit} are allowed", param="prompt")
        try:
            await asyncio.to_thread(soragen.admit, prompt, policy=self._config.policy, audit_log=self._config.audit_log)
        except soragen.PromptRefused as refused:
            raise ApiError(400, str(refused), code="moderation_blocked", param="prompt") from None
        return prompt

    def _model(self, name: str | None) -> str:
        name = name or self._config.default
        if name in self._config.models:
            return name
        if self._config.unknown is None:
            raise ApiError(400, f"there is no model {name[:80]!r}; the models are {', '.join(self._config.models)}", code="model_not_found", param="model")
        return self._config.unknown

    def _size(self, model: str, text: str | None) -> tuple[int, int]:
        info = self._info[model]
        if text is None:
            return info.size
        width, _, height = text.partition("x")
        if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit() and len(text) <= 11) or 0 in (int(width), int(height)):
            raise ApiError(400, f"{text[:40]!r} is no size; write WIDTHxHEIGHT", param="size")
        width, height = int(width), int(height)
        if info.makes(width, height):
            return width, height
        if not self._config.scale:
            made = "x".join(map(str, info.size_like(width, height)))
            raise ApiError(400, f"{model} does not make {text}; {made} is the most similar size that it makes", param="size")
        return info.size_like(width, height)

    def _seconds_of(self, body: Body, model: str) -> str:
        text, info = body.text("seconds") or "4", self._info[model]
        limit = self._config.limits.seconds
        if info.max_frames is not None:
            limit = min(limit, info.max_frames * info.frame_rate[1] / info.frame_rate[0])
        try:
            seconds = float(text) if len(text) <= 12 else float("nan")
        except ValueError:
            seconds = float("nan")
        if not 0 < seconds <= limit:
            raise ApiError(400, f"{text[:40]!r} are no seconds from 0 to {limit:g}", param="seconds")
        return f"{seconds:g}"

    async def _picture(self, body: Body, model: str) -> bytes | None:
        data = body.file("input_reference")
        info = self._info[model]
        if data is None:
            if info.needs_image:
                raise ApiError(400, f"{model} makes video from an image; send input_reference", param="input_reference")
            return None
        if self._config.input_reference == "image" and not info.image_to_video:
            raise ApiError(400, f"{model} cannot start from an image; leave out input_reference", param="input_reference")
        if self._config.input_reference == "reference" and info.max_references == 0:
            raise ApiError(400, f"{model} takes no references; leave out input_reference", param="input_reference")
        limit = self._config.limits.upload_bytes
        if len(data) > limit:
            raise ApiError(413, f"input_reference is too large; it may have {limit} bytes", code="request_too_large", param="input_reference")
        try:
            await asyncio.to_thread(soragen.picture_size, data)
        except ValueError as error:
            raise ApiError(400, f"input_reference: {error}", param="input_reference") from None
        return data

    def _new_job(self, model: str, prompt: str, seconds: str, width: int, height: int, **more: Any) -> Job:
        created = int(time.time())
        return Job(Jobs.new_id(), model, prompt, seconds, width, height, created, **more)

    async def _add(self, job: Job, picture: bytes | None) -> Any:
        limits = self._config.limits
        if self._jobs.count_open() >= limits.open_jobs:
            raise ApiError(429, f"{limits.open_jobs} jobs are open; try again later", code="rate_limit_exceeded", headers={"Retry-After": "10"})
        if shutil.disk_usage(self._config.folder).free < limits.free_bytes:
            raise ApiError(503, "the disk of the service is full; delete videos or try again later", code="storage_full")
        try:
            if picture is not None:
                folder = self._jobs.files(job.id)
                folder.mkdir(parents=True)
                await asyncio.to_thread((folder / "picture").write_bytes, picture)
            await asyncio.to_thread(self._jobs.add, job)
        except (OSError, Jobs.Failure) as error:
            shutil.rmtree(self._jobs.files(job.id), ignore_errors=True)
            raise ApiError(503, f"the job cannot be kept: {error}", code="storage_full") from None
        self._dispatcher.wake()
        return JSONResponse(job.answer())


def application(config: Config) -> serve.Application:
    """The application for `serve.run`."""
    makers = {name: maker(name, model) for name, model in config.models.items()}
    node = {"resources": {config.resource: 0.001}} if config.resource else {}
    return Videos.options(name="videos", ray_actor_options={"num_cpus": 0.1, **node}).bind(config, makers)


def maker(name: str, model: ModelConfig) -> serve.Application:
    """The deployment of a model. The queue starts and stops its workers."""
    deployment = serve.deployment(
        Maker, name=f"model {name}", max_ongoing_requests=1,
        autoscaling_config={
            "min_replicas": model.min_workers, "max_replicas": max(model.max_workers, model.min_workers, 1), "target_ongoing_requests": 1,
        },
        ray_actor_options={"num_gpus": model.num_gpus, "num_cpus": model.num_cpus},
    )
    return deployment.bind(model.source, dict(model.options))


def build(arguments: dict[str, Any]) -> serve.Application:
    """For a configuration file of Ray Serve: `import_path: soragen.serve:build`, with `args` as the service's own configuration, or `config`:
    the path of its file."""
    arguments = dict(arguments)
    path = arguments.pop("config", None)
    return application((Config.read(path) if path else Config.of(arguments)).with_tokens())
