"""A real socket: OpenAI's own client, clients that go away or dawdle, and the end of a process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from eval.serve.__main__ import _loopback, main
from jaxmodels.errors import UserError
from tests.eval.serve.conftest import LIMITS, client_of, listening, service_of
from tests.eval.serve.test_completions import ASK, post

QUICK = LIMITS | {"patience": 1.0}


@pytest.fixture(scope="module")
def service(folder):
    return service_of(folder / "real", limits=QUICK)


@pytest.fixture(scope="module")
def address(service):
    with listening(service) as address:
        yield address


def url(address, path="/v1/completions"):
    return f"http://{address[0]}:{address[1]}{path}"


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_the_official_client(address):
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=url(address, "/v1"), api_key="none", max_retries=0)
    with client:
        assert [model.id for model in client.models.list()] == ["toy"]
        options = dict(model="toy", prompt="We the people", max_tokens=30, seed=5, stop=["q"])
        whole = client.completions.create(**options)
        text, usage = "", None
        streams = dict(stream=True, stream_options={"include_usage": True})
        for chunk in client.completions.create(**options, **streams):
            usage = chunk.usage or usage
            text += chunk.choices[0].text if chunk.choices else ""
        assert text == whole.choices[0].text and usage == whole.usage
        options = dict(model="toy", seed=5, max_completion_tokens=20, logprobs=True)
        options |= dict(messages=[{"role": "user", "content": "hello"}], top_logprobs=2)
        whole = client.chat.completions.create(**options)
        parts = [c.choices[0] for c in client.chat.completions.create(**options, stream=True)]
        content = whole.choices[0].message.content
        assert "".join(part.delta.content for part in parts) == content
        entries = whole.choices[0].logprobs.content
        assert len(entries) == whole.usage.completion_tokens
        assert len(entries[0].top_logprobs) == 2
        with pytest.raises(openai.NotFoundError, match="no model"):
            client.completions.create(model="x", prompt="a")
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            client.completions.create(model="toy", prompt="a", max_tokens=-1)
        extra = client.completions.create(
            model="toy", prompt="a", max_tokens=3, extra_body={"session_out": "s"}
        )
        assert extra.choices[0].finish_reason == "length"


def test_a_client_that_goes_away_frees_its_place(service, address):
    ask = ASK | {"max_tokens": 200_000}
    for stream in (True, False):
        with socket.create_connection(address) as connection:
            connection.sendall(raw(ask | {"stream": stream}))
            wait_for(lambda: service.engine.running)
            if stream:
                assert b"200 OK" in connection.recv(1000)
        wait_for(lambda: service.scheduler.open == 0 and not service.engine.running)
    text = httpx.get(url(address, "/metrics")).text
    assert "jaxmodels_cancelled_total 2.0" in text


def raw(ask):
    body = json.dumps(ask).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_slow_clients_are_hung_up_on(address):
    start = time.monotonic()
    with socket.create_connection(address) as headers, socket.create_connection(address) as body:
        silent = socket.create_connection(address)
        data = raw(ASK)
        body.sendall(data[:-5])
        headers.settimeout(20)
        with pytest.raises(OSError):  # it is closed while we dawdle
            for byte in data[:80]:
                headers.sendall(bytes([byte]))
                time.sleep(0.1)
        assert body.recv(100).startswith(b"HTTP/1.1 408")
        silent.settimeout(20)
        assert silent.recv(10) == b""
        silent.close()
    assert 0.9 < time.monotonic() - start < 10
    # A connection that is kept between requests is not in a hurry.
    with httpx.Client() as client:
        for _ in range(2):
            assert client.post(url(address), json=ASK).status_code == 200
            time.sleep(1.5)


def test_streams_beside_a_client_that_does_not_read(service, address):
    with client_of(service_of(service.store.folder.parent / "alone")) as client:
        alone = post(client, max_tokens=60)["choices"][0]["text"]
    with socket.create_connection(address) as lazy:
        lazy.sendall(raw(ASK | {"stream": True, "max_tokens": 200_000}))
        wait_for(lambda: service.engine.running)
        answer = httpx.post(url(address), json=ASK | {"max_tokens": 60}, timeout=60)
        assert answer.json()["choices"][0]["text"] == alone
    wait_for(lambda: not service.engine.running)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--host=0.0.0.0"], "others could use it"),
        (["--slots=0"], "--slots=0: give 1 or more"),
        (["--port=70000"], "--port=70000"),
        (["--token-file=nowhere"], "nowhere: cannot be read"),
    ],
)
def test_bad_flags(flags, message, capsys, monkeypatch):
    monkeypatch.delenv("JAXMODELS_TOKEN", raising=False)
    assert main(["--workdir=run", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_base_that_has_moved_is_read_where_it_is(capsys, monkeypatch):
    def load(workdir, checkpoint, base):
        raise UserError(f"{workdir} {checkpoint} {base}")

    monkeypatch.setattr("eval.run.load_trained", load)
    assert main(["--workdir=run", "--checkpoint=last", "--base=moved"]) == 2
    assert "run last moved" in capsys.readouterr().err.replace(f"{os.getcwd()}/", "")


def test_loopback():
    assert all(map(_loopback, ("127.0.0.1", "localhost", "::1", "[::1]", "127.9.9.9")))
    assert not any(map(_loopback, ("0.0.0.0", "::", "example.org", "10.0.0.1", "")))


@contextlib.contextmanager
def started(workdir, *flags):
    """A server in a process of its own, and the address that it prints; it ends with the block."""
    command = [sys.executable, "-m", "eval.serve", f"--workdir={workdir}", "--port=0", *flags]
    environment = os.environ | {"JAXMODELS_TOKEN": "t" * 20}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        with process.stdout:
            line = process.stdout.readline()
        yield process, line.split(" at ")[1].split()[0]
    finally:
        process.kill()
        process.wait(30)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_sigkill_loses_nothing_saved(number, finished, tmp_path):
    headers = {"Authorization": "Bearer " + "t" * 20}
    flags = f"--sessions={tmp_path}", "--name=toy", "--drain=60"
    options = dict(headers=headers, timeout=120)
    with (
        started(finished, *flags) as (process, base),
        httpx.Client(base_url=base, **options) as client,
    ):
        command = [sys.executable, "-m", "eval.serve", f"--workdir={finished}", *flags, "--port=0"]
        other = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=120)
        assert other.returncode == 2 and f"--sessions={tmp_path}: in use by" in other.stderr
        saved = client.post("/v1/completions", json=ASK | {"session_out": "s"})
        rest = client.post("/v1/completions", json=ASK | {"prompt": "", "session_in": "s"}).json()
        assert saved.status_code == 200
        process.kill()
    answers = []
    with (
        started(finished, *flags) as (process, base),
        httpx.Client(base_url=base, **options) as client,
    ):
        again = client.post("/v1/completions", json=ASK | {"prompt": "", "session_in": "s"}).json()
        assert again["choices"] == rest["choices"]
        long = ASK | {"max_tokens": 4000}
        thread = threading.Thread(
            target=lambda: answers.append(client.post("/v1/completions", json=long))
        )
        thread.start()
        wait_for(lambda: "open 1.0" in httpx.get(f"{base}/metrics", headers=headers).text)
        process.send_signal(number)
        thread.join(120)
        assert answers[0].json()["usage"]["completion_tokens"] == 4000
        assert process.wait(60) in (0, 130, -number)
