"""What a server accepts at most, and the errors that say so, in the shape of OpenAI's API."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from jaxmodels.errors import UserError

if TYPE_CHECKING:
    from starlette.responses import JSONResponse


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a server.

    Attributes:
      slots: requests that are decoded at the same time.
      queue: further requests that wait for a slot.
      max_tokens: tokens of an answer.
      max_prompt: tokens of a prompt.
      max_choices: prompts times choices of a request; at most slots and queue together.
      max_seconds: from the arrival of a request to its last token.
      max_body: bytes of a request's body.
      patience: seconds for the headers of a request, and for its body.
      max_sessions: saved sessions; session_bytes: of all of their files.
      prefix_bytes: of the states of the prefix cache.
      drain: seconds that running requests have after SIGTERM.
    """

    slots: int = 8
    queue: int = 64
    max_tokens: int = 4096
    max_prompt: int = 16384
    max_choices: int = 16
    max_seconds: float = 300.0
    max_body: int = 1 << 20
    patience: float = 10.0
    max_sessions: int = 1000
    session_bytes: int = 1 << 30
    prefix_bytes: int = 64 << 20
    drain: float = 20.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("queue", "prefix_bytes", "drain", "max_sessions") else 1
            if not value >= least:
                option = f"--{field.name.replace('_', '-')}"
                raise UserError(f"{option}={value}: give {least} or more")
        most = min(self.max_choices, self.slots + self.queue)  # more could never be admitted
        object.__setattr__(self, "max_choices", most)


class ApiError(Exception):
    """An answer other than success.

    Args:
      status: of HTTP.
      message: one line.
      param: field of the request that is wrong.
      code: for programs, e.g. "model_not_found".
      headers: further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers

    def content(self) -> dict:
        """Return the body of the answer."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 401:
            kind = "authentication_error"
        fields = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return {"error": fields}

    def response(self) -> JSONResponse:
        """Return the answer."""
        from starlette.responses import JSONResponse  # --help needs no extra

        return JSONResponse(self.content(), self.status, self.headers)


def busy() -> ApiError:
    """Return the answer to a request that finds the queue full."""
    message = "the queue is full; try again"
    return ApiError(503, message, code="overloaded", headers={"Retry-After": "1"})


def too_late(seconds: float) -> ApiError:
    """Return the answer to a request whose time is over."""
    return ApiError(504, f"not done after {seconds:g} s; ask for fewer tokens", code="timeout")
