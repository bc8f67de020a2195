"""The description of the API, which is also what requests are checked against.

Fields of OpenAI's API that change nothing here are accepted with the value that asks for nothing.
`session_in`, `session_out` and `inside` are this server's own, and so are some sampling options.
"""

from typing import Any

from eval.serve.limits import Limits
from jaxmodels.generation.programs import TOP
from jaxmodels.generation.request import MOST_ENDS
from jaxmodels.generation.sampling import SEEDS
from jaxmodels.generation.text import MOST_STOPS

NAME = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"  # of a session
ROLES = ("system", "developer", "user", "assistant", "tool")
LARGEST = 1e6  # of numbers without a natural limit
IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1}}


def _or_null(kind: str, **fields) -> dict[str, Any]:
    return {"type": [kind, "null"], **fields}


def _text(**fields) -> dict[str, Any]:
    return {"type": "string", **fields}


def _common(limits: Limits) -> dict[str, Any]:
    """Return the fields of both kinds of requests."""
    stop = _text(minLength=1, maxLength=256)
    return {
        "model": _text(description="see /v1/models"),
        "max_tokens": _or_null("integer", minimum=0, maximum=limits.max_tokens),
        "temperature": _or_null("number", minimum=0, maximum=100),
        "top_k": _or_null("integer", minimum=1, maximum=2**30),
        "top_p": _or_null("number", exclusiveMinimum=0, maximum=1),
        "min_p": _or_null("number", minimum=0, maximum=1),
        "repetition_penalty": _or_null("number", exclusiveMinimum=0, maximum=LARGEST),
        "seed": _or_null("integer", minimum=0, maximum=SEEDS - 1),
        "n": _or_null("integer", minimum=1, maximum=limits.max_choices),
        "stop": {
            "anyOf": [
                {"type": "null"},
                stop,
                {"type": "array", "items": stop, "maxItems": MOST_STOPS},
            ]
        },
        "stop_token_ids": {**IDS, "type": ["array", "null"], "maxItems": MOST_ENDS - 4},
        "stream": _or_null("boolean"),
        "stream_options": _or_null(
            "object",
            properties={"include_usage": {"type": ["boolean", "null"]}},
            additionalProperties=False,
        ),
        "session_in": _or_null("string", pattern=NAME, description="begin after this session"),
        "session_out": _or_null(
            "string", pattern=NAME, description="save the session: a new name, or session_in"
        ),
        "inside": _or_null("boolean", description="tell norms of states and outputs of heads"),
        "user": _or_null("string", maxLength=1024),
        "frequency_penalty": {"enum": [0, None]},
        "presence_penalty": {"enum": [0, None]},
        "logit_bias": {"enum": [None, {}]},
        "store": {"enum": [None, False]},
        "metadata": {"enum": [None, {}]},
    }


def completion_schema(limits: Limits) -> dict[str, Any]:
    """Return the JSON schema of a request to /v1/completions."""
    prompt = {
        "anyOf": [
            {"type": "string"},
            {**IDS, "maxItems": limits.max_prompt},
            {
                "type": "array",
                "minItems": 1,
                "maxItems": limits.max_choices,
                "items": {"anyOf": [{"type": "string"}, {**IDS, "maxItems": limits.max_prompt}]},
            },
        ]
    }
    fields = {
        "prompt": prompt,
        "logprobs": _or_null("integer", minimum=0, maximum=TOP),
        "echo": {"enum": [False, None]},
        "suffix": {"enum": [None, ""]},
        "best_of": {"enum": [1, None]},
    }
    return _object(_common(limits) | fields, ["model", "prompt"])


def chat_schema(limits: Limits) -> dict[str, Any]:
    """Return the JSON schema of a request to /v1/chat/completions."""
    part = _object({"type": {"const": "text"}, "text": _text()}, ["type", "text"])
    content = {"anyOf": [_text(), {"type": "array", "items": part, "minItems": 1}]}
    message = {"role": {"enum": list(ROLES)}, "content": content, "name": _text(maxLength=64)}
    fields = {
        "messages": {
            "type": "array",
            "items": _object(message, ["role", "content"]),
            "minItems": 1,
            "maxItems": 1024,
        },
        "max_completion_tokens": _or_null("integer", minimum=1, maximum=limits.max_tokens),
        "logprobs": _or_null("boolean"),
        "top_logprobs": _or_null("integer", minimum=0, maximum=TOP),
        "response_format": {"enum": [None, {"type": "text"}]},
        "tools": {"enum": [None, []]},
        "tool_choice": {"enum": [None, "none"]},
        "parallel_tool_calls": {"enum": [None, False, True]},
        "modalities": {"enum": [None, ["text"]]},
        "service_tier": {"enum": [None, "auto", "default"]},
    }
    return _object(_common(limits) | fields, ["model", "messages"])


FORK = {"to": _text(pattern=NAME)}


def fork_schema() -> dict[str, Any]:
    """Return the JSON schema of a request to fork a session."""
    return _object(FORK, ["to"])


def _object(properties, required) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def description(limits: Limits, *, version: str, token: bool) -> dict[str, Any]:
    """Return the OpenAPI document; `token`: whether requests need a bearer token."""
    error = {"$ref": "#/components/schemas/Error"}

    def answers(content: dict, *statuses: int) -> dict[str, Any]:
        found = {"200": {"description": "success", "content": content}}
        every = (*statuses, *((401,) if token else ()))
        errors = {"content": {"application/json": {"schema": error}}}
        return found | {str(s): {"description": "error", **errors} for s in every}

    objects = {"application/json": {"schema": {"type": "object"}}}
    streams = objects | {"text/event-stream": {"schema": {"type": "string"}}}
    text = {"text/plain": {"schema": {"type": "string"}}}
    page = {"text/html": {"schema": {"type": "string"}}}
    body = (400, 404, 408, 409, 413, 415, 500, 503, 504, 507)

    def posted(schema: dict, answer: dict) -> dict[str, Any]:
        content = {"application/json": {"schema": schema}}
        return {"requestBody": {"required": True, "content": content}, "responses": answer}

    def get(content: dict, *statuses: int) -> dict[str, Any]:
        return {"get": {"responses": answers(content, *statuses)}}

    name = {"name": "id", "in": "path", "required": True, "schema": _text(pattern=NAME)}
    model = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    one = get(objects, 400, 404) | {"delete": {"responses": answers(objects, 400, 404, 409)}}
    fork = posted(fork_schema(), answers(objects, *body))
    schemas = {
        "CompletionRequest": completion_schema(limits),
        "ChatRequest": chat_schema(limits),
        "Error": _object(
            {
                "error": {
                    "type": "object",
                    "required": ["message", "type", "param", "code"],
                    "properties": {
                        "message": _text(),
                        "type": _text(),
                        "param": _or_null("string"),
                        "code": _or_null("string"),
                    },
                }
            },
            ["error"],
        ),
    }
    reference = {key: {"$ref": f"#/components/schemas/{key}"} for key in schemas}
    paths = {
        "/v1/completions": {
            "post": posted(reference["CompletionRequest"], answers(streams, *body))
        },
        "/v1/chat/completions": {"post": posted(reference["ChatRequest"], answers(streams, *body))},
        "/v1/models": get(objects),
        "/v1/models/{model}": get(objects, 404) | {"parameters": [model]},
        "/v1/sessions": get(objects),
        "/v1/sessions/{id}": one | {"parameters": [name]},
        "/v1/sessions/{id}/fork": {"post": fork, "parameters": [name]},
        "/metrics": get(text),
        "/healthz": get(objects, 503),
        "/openapi.json": get(objects),
        "/": get(page),
    }
    components: dict[str, Any] = {"schemas": schemas}
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "jaxmodels", "version": version},
        "paths": paths,
        "components": components,
    }
    if token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"token": []}]
    return document
