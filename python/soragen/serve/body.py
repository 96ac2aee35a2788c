"""The body of a request: JSON, a form, or a form with a file."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile

from .errors import ApiError

# What a body may have besides its file.
MORE = 1 << 20


class Body:
    """Named values."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def text(self, name: str) -> str | None:
        """A string or a number, as text; `None` if it is missing or null."""
        value = self._values.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ApiError(400, f"{name} must be text", param=name)
        text = str(value)
        if any(0xD800 <= ord(character) <= 0xDFFF or character == "\0" for character in text):
            raise ApiError(400, f"{name} is no valid text", param=name)
        return text

    def integer(self, name: str, least: int, most: int) -> int | None:
        text = self.text(name)
        if text is None:
            return None
        if not (re.fullmatch(r"-?[0-9]{1,24}", text) and least <= int(text) <= most):
            raise ApiError(400, f"{name} must be an integer from {least} to {most}", param=name)
        return int(text)

    def file(self, name: str) -> bytes | None:
        """A file: an upload, or `{"image_url": "data:…"}`. Other URLs are refused: the service fetches nothing."""
        value = self._values.get(name)
        url = self._values.get(f"{name}[image_url]")
        if isinstance(value, dict):
            url = value.get("image_url")
            value = None
            if url is None:
                raise ApiError(400, f"{name} needs image_url; files by id are not kept here", param=name)
        if isinstance(value, bytes):
            return value
        if value is not None:
            raise ApiError(400, f"{name} must be a file, or an object with image_url", param=name)
        if url is None:
            return None
        head, comma, data = url.partition(",") if isinstance(url, str) else ("", "", "")
        if not (head.startswith("data:") and head.endswith(";base64") and comma):
            raise ApiError(400, f"{name}: send the picture itself, as a file or as a data URL in base64", param=name)
        try:
            return base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError):
            raise ApiError(400, f"{name}: the data URL is no base64", param=name) from None


async def read_body(request: Request, upload_bytes: int) -> Body:
    """Reads the body of a request, of at most so many bytes and a little more."""
    most, size, parts = upload_bytes + MORE, 0, []
    is_json = request.headers.get("content-type", "").partition(";")[0].strip().lower() in ("application/json", "")
    # In base64 a picture is a third longer.
    most = most * 4 // 3
    async for part in request.stream():
        size += len(part)
        if size > most:
            raise ApiError(413, f"the request is too large; a picture may have {upload_bytes} bytes", code="request_too_large")
        parts.append(part)
    data = b"".join(parts)
    if is_json:
        try:
            values = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            raise ApiError(400, "the body is no JSON") from None
        if not isinstance(values, dict):
            raise ApiError(400, "the body must be an object")
        return Body(values)
    return Body(await _form(request, data))


async def _form(request: Request, data: bytes) -> dict[str, Any]:
    # The form is parsed from the bytes that were counted.
    async def again() -> dict[str, Any]:
        return {"type": "http.request", "body": data, "more_body": False}

    values: dict[str, Any] = {}
    try:
        form = await Request(request.scope, again).form(max_files=4, max_fields=64, max_part_size=max(len(data), 1))
    except Exception as error:  # the parser has many
        raise ApiError(400, f"the form cannot be read: {getattr(error, 'detail', error)}") from None
    try:
        for name, value in form.multi_items():
            values[name] = await value.read() if isinstance(value, UploadFile) else value
    finally:
        await form.close()
    return values
