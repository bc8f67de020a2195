"""The HTTP server: uvicorn, impatient with clients that do not finish what they say."""

import asyncio
import socket
import sys

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from eval.serve.app import create_app
from eval.serve.service import Service

KEEP_ALIVE = 15  # seconds of silence after an answer
CONNECTIONS = 1024
HEADERS = 16 << 10  # bytes of a request's line and headers


def protocol_of(patience: float) -> type[H11Protocol]:
    """Return a protocol that hangs up where headers take longer than `patience` seconds.

    uvicorn's own has a limit for the silence between requests only, not for slow headers.
    """

    class Impatient(H11Protocol):
        _late: asyncio.TimerHandle | None = None

        def connection_made(self, transport):
            super().connection_made(transport)
            self._wait()

        def data_received(self, data):
            if self._late is None and (self.cycle is None or self.cycle.response_complete):
                self._wait()
            super().data_received(data)
            if self.conn.their_state is not h11.IDLE:
                self._stop_waiting()

        def connection_lost(self, exc):
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self):
            self._late = self.loop.call_later(patience, self._hang_up)

        def _stop_waiting(self):
            if self._late is not None:
                self._late.cancel()
                self._late = None

        def _hang_up(self):
            self._late = None
            if self.conn.their_state is h11.IDLE:
                self.transport.close()

    return Impatient


def server_of(service: Service, *, token: str | None = None, hosts: tuple[str, ...] = ()):
    """Return a uvicorn server of a service that is not started; see `create_app`."""
    limits = service.limits
    config = uvicorn.Config(
        create_app(service, token=token, hosts=hosts),
        http=protocol_of(limits.patience),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(limits.drain)),
        limit_concurrency=CONNECTIONS,
        h11_max_incomplete_event_size=HEADERS,
        backlog=256,
    )
    return uvicorn.Server(config)


async def serve(
    service: Service,
    host: str,
    port: int,
    *,
    token: str | None = None,
    hosts: tuple[str, ...] = (),
) -> None:
    """Serve until SIGTERM or SIGINT; raise OSError if the address cannot be had."""
    sys.setswitchinterval(1e-3)  # the engine's thread must not wait for the others' turns
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with listener:
        listener.bind((host.strip("[]"), port))
        shown = f"[{host.strip('[]')}]" if family == socket.AF_INET6 else host
        address = f"http://{shown}:{listener.getsockname()[1]}"
        server = server_of(service, token=token, hosts=hosts)
        begin = server.startup

        async def startup(sockets=None):
            await begin(sockets)
            if server.started:
                print(f"serving {service.name!r} at {address} (Ctrl-C ends it)", flush=True)

        server.startup = startup  # it listens from here on
        await server.serve(sockets=[listener])
