"""Fixtures: a small model that is served, in this process, with and without a real socket."""

import asyncio
import contextlib
import importlib.util
import threading
import time

import pytest

from jaxmodels.data import ByteTokenizer
from tests.eval.tiny_bytes import Toy

NEEDED = ("starlette", "uvicorn", "httpx", "jsonschema", "prometheus_client")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []

if not MISSING:
    from starlette.testclient import TestClient

    from eval.serve.app import create_app
    from eval.serve.http import server_of
    from eval.serve.limits import Limits
    from eval.serve.service import Service


def pytest_report_header():
    """Say why the server is not tested."""
    return f"the server is not tested: {', '.join(MISSING)} missing" if MISSING else None


LIMITS = dict(
    slots=4, queue=4, max_tokens=200_000, max_prompt=4000, max_body=20_000, max_seconds=60
)


def service_of(folder, model=None, limits=LIMITS, **options):
    options = dict(name="toy", limits=Limits(**limits)) | options
    return Service(model or Toy(), ByteTokenizer(), folder=folder / "sessions", **options)


@contextlib.contextmanager
def client_of(service, **options):
    app = create_app(service, **options)
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


@contextlib.contextmanager
def listening(service, **options):
    """Serve on a free port of the loopback interface; yield its address."""
    server = server_of(service, **options)
    server.config.port = 0
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield "127.0.0.1", server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def client(folder):
    with client_of(service_of(folder)) as client:
        yield client
