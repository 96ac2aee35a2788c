"""The answers, for the description of the interface (`/openapi.json`)."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class Problem(BaseModel):
    code: str
    message: str


class Video(BaseModel):
    id: str
    object: Literal["video"]
    model: str
    status: Literal["queued", "in_progress", "completed", "failed"]
    progress: int
    created_at: int
    completed_at: int | None
    expires_at: int | None
    seconds: str
    size: str
    prompt: str | None
    remixed_from_video_id: str | None
    error: Problem | None


class Videos(BaseModel):
    object: Literal["list"]
    data: list[Video]
    has_more: bool
    first_id: str | None
    last_id: str | None


class Deleted(BaseModel):
    id: str
    object: Literal["video.deleted"]
    deleted: bool


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(BaseModel):
    object: Literal["list"]
    data: list[Model]


class Health(BaseModel):
    status: Literal["ok"]
    open_jobs: int


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorDetail


ERRORS = {status: {"model": Error} for status in (400, 401, 404, 405, 413, 422, 429, 503)}
CONTENT = ERRORS | {200: {"content": {"video/mp4": {}, "image/webp": {}, "image/jpeg": {}}}}


def _body(properties: dict, required: list[str], file: str | None = None) -> dict:
    json = {"type": "object", "properties": dict(properties), "required": required}
    content = {"application/json": {"schema": json}}
    if file:
        json["properties"][file] = {"type": "object", "properties": {"image_url": {"type": "string"}}}
        form = {"type": "object", "properties": {**properties, file: {"type": "string", "format": "binary"}}, "required": required}
        content["multipart/form-data"] = {"schema": form}
    return {"requestBody": {"required": True, "content": content}}


CREATE = _body(
    {
        "prompt": {"type": "string"}, "model": {"type": "string"}, "seconds": {"type": "string"}, "size": {"type": "string"},
        "seed": {"type": "integer"},
    },
    ["prompt"], "input_reference",
)
REMIX = _body({"prompt": {"type": "string"}}, ["prompt"])
