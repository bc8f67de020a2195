"""The endpoints of a server, see `openapi.py`."""

import asyncio
import contextlib
import hmac
import json
import time
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import jaxmodels
from eval.serve.answers import Answer, joined
from eval.serve.body import read_json, validator_of
from eval.serve.limits import ApiError, too_late
from eval.serve.openapi import chat_schema, completion_schema, description, fork_schema
from eval.serve.service import Service, Task

PAGE = Path(__file__).with_name("page")
OPEN = ("/healthz", "/openapi.json")  # without a token, and so is the page
SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
}


def create_app(service: Service, *, token: str | None = None, hosts: tuple[str, ...] = ()):
    """Return the ASGI application of a service.

    Args:
      service: started and stopped with the application.
      token: bearer token that requests to /v1 and /metrics need; None = none.
      hosts: names that a Host header may have; () = any. Without a token, they keep a page whose
        name was made to point to this computer from using the server.
    """
    api = _Api(service)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        await asyncio.to_thread(service.engine.warm_up)
        service.scheduler.start()
        yield
        await asyncio.to_thread(service.scheduler.stop)

    document = description(service.limits, version=jaxmodels.__version__, token=token is not None)
    version = [
        Route("/completions", api.completions, methods=["POST"]),
        Route("/chat/completions", api.chat, methods=["POST"]),
        Route("/models", api.models),
        Route("/models/{model:path}", api.model),
        Route("/sessions", api.sessions),
        Route("/sessions/{id}", api.session, methods=["GET", "DELETE"]),
        Route("/sessions/{id}/fork", api.fork, methods=["POST"]),
    ]
    routes = [
        Mount("/v1", routes=version),
        Route("/metrics", api.metrics),
        Route("/healthz", api.health),
        Route("/openapi.json", lambda request: JSONResponse(document)),
        Mount("/", StaticFiles(directory=PAGE, html=True)),
    ]
    handlers = {ApiError: _refuse, HTTPException: _http, Exception: _failed}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=handlers)
    return _Door(app, service, token, hosts)


async def _refuse(request, error: ApiError):
    return error.response()


async def _http(request, error: HTTPException):
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{request.method} {request.url.path!r:.200}: {error.detail}"
    return ApiError(error.status_code, message, code=code, headers=error.headers).response()


async def _failed(request, error: Exception):
    return ApiError(500, "the server failed; its log says why").response()


class _Door:
    """Checks who asks before anything else, and counts the answers."""

    def __init__(self, app, service: Service, token: str | None, hosts: tuple[str, ...]):
        self.app, self.metrics, self.hosts = app, service.metrics, hosts
        self.token = None if token is None else token.encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path = scope["path"]
        label = "/".join(path.split("/")[:3]) if path.startswith("/v1/") else "other"

        async def answer(message):
            if message["type"] == "http.response.start":
                own = {name for name, _ in message["headers"]}
                extra = [(k.lower().encode(), v.encode()) for k, v in SAFE.items()]
                message["headers"] = [*message["headers"], *(x for x in extra if x[0] not in own)]
                label_ = label if message["status"] != 404 else "other"
                self.metrics.requests.labels(label_, message["status"]).inc()
            await send(message)

        headers = dict(scope["headers"])
        if problem := self._problem(path, headers):
            return await problem.response()(scope, receive, answer)
        return await self.app(scope, receive, answer)

    def _problem(self, path, headers) -> ApiError | None:
        host = headers.get(b"host", b"").decode("latin-1").rpartition(":")
        name = (host[0] if host[0] and host[2].isdigit() else "".join(host)).lower()
        if self.hosts and name not in self.hosts:
            return ApiError(403, "this name of the server is not allowed; see --allow-host")
        guarded = path.startswith("/v1") or path == "/metrics"
        if self.token is None or not guarded:
            return None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self.token):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        return ApiError(401, "a bearer token is needed", code="invalid_api_key", headers=challenge)


class _Api:
    """The endpoints' functions."""

    def __init__(self, service: Service):
        self.service, limits = service, service.limits
        self._completion = validator_of(completion_schema(limits))
        self._chat = validator_of(chat_schema(limits))
        self._fork = validator_of(fork_schema())

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._generate(request, self._completion, chat=False)

    async def chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._generate(request, self._chat, chat=True)

    async def _generate(self, request, validator, *, chat: bool) -> Response:
        limits = self.service.limits
        body = await read_json(request, limits, validator)
        until = time.monotonic() + limits.max_seconds
        stack = contextlib.AsyncExitStack()
        answer = Answer(self.service.name, chat, self.service.tokenizer)
        try:
            work = self._begun(stack, body, chat, until)
            task = await _unless_gone(request, work)
            if not body.get("stream"):
                whole = self._whole(task, answer, until)
                return JSONResponse(await _unless_gone(request, whole))
        except _Gone:
            self.service.metrics.cancelled.inc()
            return Response(status_code=499)
        except TimeoutError as error:
            raise too_late(limits.max_seconds) from error
        else:
            usage = body.get("stream_options", {}).get("include_usage")
            return _Streamed(self._pieces(task, answer, until, usage), stack.pop_all())
        finally:
            await stack.aclose()

    async def _begun(self, stack, body, chat, until) -> Task:
        async with asyncio.timeout(until - time.monotonic()):
            return await stack.enter_async_context(self.service.task(body, chat=chat))

    async def _whole(self, task, answer, until) -> dict:
        count = len(task.choices)
        texts, last, probs, looks = [""] * count, [None] * count, [[] for _ in range(count)], {}
        async with asyncio.timeout(until - time.monotonic()):
            async with contextlib.aclosing(self.service.events(task)) as events:
                async for index, event, seen in events:
                    probs[index].append(answer.logprobs(event, len(texts[index])))
                    texts[index] += event.text
                    last[index] = event
                    looks.setdefault(index, []).extend(seen or ())
            await self.service.keep(task, last[0].session, texts[0])
        choices = []
        for i in range(count):
            extra = {"inside": looks.get(i, [])} if task.inside else {}
            choices.append(answer.choice(i, texts[i], last[i], joined(probs[i]), **extra))
        return answer.whole(choices, task.usage)

    async def _pieces(self, task, answer, until, usage):
        """Yield server-sent events; what goes wrong after the first is one of them."""
        texts = [""] * len(task.choices)
        done = False
        try:
            async with asyncio.timeout(until - time.monotonic()):
                if answer.chat:
                    for index in range(len(texts)):
                        yield _line(answer.piece([answer.role(index)]))
                async with contextlib.aclosing(self.service.events(task)) as events:
                    async for index, event, seen in events:
                        logprobs = answer.logprobs(event, len(texts[index]))
                        texts[index] += event.text
                        extra = {} if seen is None else {"inside": seen}
                        if event.last:  # which is told when the session is on the disk
                            await self.service.keep(task, event.session, texts[0])
                        yield _line(answer.piece([answer.delta(index, event, logprobs, **extra)]))
                if usage:
                    yield _line(answer.piece([], usage=task.usage.content()))
            done = True
            yield b"data: [DONE]\n\n"
        except ApiError as error:
            done = True
            yield _line(error.content())
        except TimeoutError:
            done = True
            yield _line(too_late(self.service.limits.max_seconds).content())
        finally:
            if not done:
                self.service.metrics.cancelled.inc()

    async def models(self, request: Request) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": [self.service.card()]})

    async def model(self, request: Request) -> Response:
        """GET /v1/models/{model}."""
        if request.path_params["model"] != self.service.name:
            raise ApiError(404, "no such model", param="model", code="model_not_found")
        return JSONResponse(self.service.card())

    async def sessions(self, request: Request) -> Response:
        """GET /v1/sessions."""
        store = self.service.store
        names = await asyncio.to_thread(store.names)
        return JSONResponse({"object": "list", "data": names, "bytes": store.bytes})

    async def session(self, request: Request) -> Response:
        """GET or DELETE /v1/sessions/{id}."""
        store, name = self.service.store, request.path_params["id"]
        if request.method != "DELETE":
            return JSONResponse(await asyncio.to_thread(store.about, name))
        with self.service.using({name}):
            await asyncio.to_thread(self.service.store.delete, name)
        return JSONResponse({"id": name, "object": "session.deleted", "deleted": True})

    async def fork(self, request: Request) -> Response:
        """POST /v1/sessions/{id}/fork."""
        body = await read_json(request, self.service.limits, self._fork)
        name, to = request.path_params["id"], body["to"]
        with self.service.using({name, to}):
            await asyncio.to_thread(self.service.store.fork, name, to)
        return JSONResponse(await asyncio.to_thread(self.service.store.about, to))

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        return Response(self.service.metrics.text(), media_type="text/plain; version=0.0.4")

    async def health(self, request: Request) -> Response:
        """GET /healthz."""
        if self.service.scheduler.broken:
            raise ApiError(503, "the engine failed", code="engine_failed")
        return JSONResponse({"status": "ok"})


class _Streamed(StreamingResponse):
    """Server-sent events; what they need is given back when the client has them or goes away."""

    def __init__(self, pieces, stack: contextlib.AsyncExitStack):
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(pieces, media_type="text/event-stream", headers=headers)
        self._own, self._stack = pieces, stack

    async def __call__(self, scope, receive, send):
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._own.aclose()
            await self._stack.aclose()


class _Gone(Exception):
    """The client went away."""


async def _unless_gone(request: Request, work):
    """Return the result of a coroutine, which is cancelled if the client goes away."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise _Gone
    finally:
        for task in (working, watching):
            if not task.done():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _line(content: dict) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"
