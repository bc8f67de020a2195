"""Bodies of requests: read within limits, parsed, and checked against their schema."""

import asyncio
import json
from typing import Any

import jsonschema
from starlette.requests import ClientDisconnect, Request

from eval.serve.limits import ApiError, Limits


def validator_of(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Return a checker of requests."""
    return jsonschema.Draft202012Validator(schema)


async def read_json(
    request: Request, limits: Limits, validator: jsonschema.Draft202012Validator
) -> dict[str, Any]:
    """Return the body of a request, an object that fits a schema.

    Fields that are null are left out. Raises ApiError: 400, 408 (too slow), 413 or 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # which a page of another origin cannot send unasked
        raise ApiError(415, "Content-Type must be application/json")
    data = await _read(request, limits)
    try:
        body = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(body, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeDecodeError as error:
        raise ApiError(400, f"the body is not UTF-8: byte {error.start + 1}") from error
    except UnicodeEncodeError as error:
        raise ApiError(400, "the body has half of a surrogate pair, which is no text") from error
    except RecursionError as error:
        raise ApiError(400, "the body is nested too deeply") from error
    except ValueError as error:  # also an integer of thousands of digits
        raise ApiError(400, f"the body is not JSON: {str(error)[:200]}") from error
    try:
        problem = jsonschema.exceptions.best_match(validator.iter_errors(body))
    except (RecursionError, OverflowError) as error:
        raise ApiError(400, "the body has a value that is too deep or too large") from error
    if problem is not None:
        path = ".".join(map(str, problem.absolute_path))
        message = f"{path}: {problem.message}" if path else problem.message
        raise ApiError(400, message[:500], param=path or None)
    kinds = {name: x.get("type", ()) for name, x in validator.schema["properties"].items()}
    return {
        name: int(value) if isinstance(value, float) and "integer" in kinds[name] else value
        for name, value in body.items()  # JSON's 1.0 is an integer
        if value is not None
    }


async def _read(request: Request, limits: Limits) -> bytes:
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and int(length[:20]) > limits.max_body:
        raise _too_large(limits)
    data = bytearray()
    try:
        async with asyncio.timeout(limits.patience):
            async for piece in request.stream():
                data += piece
                if len(data) > limits.max_body:
                    raise _too_large(limits)
    except TimeoutError as error:
        message = f"the body took longer than {limits.patience:g} s"
        raise ApiError(408, message, headers={"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise ApiError(400, "the client went away") from error
    return bytes(data)


def _too_large(limits: Limits) -> ApiError:
    message = f"the body has more than {limits.max_body} bytes"
    return ApiError(413, message, headers={"Connection": "close"})


def _no_constant(name: str):
    raise ValueError(f"{name} is no JSON")
