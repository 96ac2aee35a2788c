"""Errors in the form of the interface: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

TYPES = {400: "invalid_request_error", 401: "authentication_error", 404: "not_found_error", 413: "invalid_request_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None, headers: dict | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param, self.headers = status, message, code, param, headers

    def response(self) -> JSONResponse:
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return JSONResponse({"error": error}, self.status, self.headers)


def api_error(_: Request, error: ApiError) -> JSONResponse:
    return error.response()


def table_error(_: Request, error: Exception) -> JSONResponse:
    return ApiError(503, f"the table of jobs cannot be read or written: {error}", code="storage_full").response()


def http_error(_: Request, error: HTTPException) -> JSONResponse:
    return ApiError(error.status_code, str(error.detail), headers=dict(error.headers or {})).response()


def validation_error(_: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    return ApiError(400, f"{'.'.join(where) or 'the request'}: {first['msg']}", param=where[0] if where else None).response()
