"""Bad input gets the right status in the API's shape, and harms nobody else."""

import json
import threading

import pytest

from tests.eval.serve.conftest import LIMITS, client_of, service_of
from tests.eval.serve.test_completions import ASK, post

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


def refused(answer, status):
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    assert "Traceback" not in answer.text
    return error


def talk(role="user", content="hello", **fields):
    return {"messages": [{"role": role, "content": content}], **fields}


@pytest.mark.parametrize(
    ("path", "fields", "status", "param"),
    [
        (COMPLETIONS, {"max_tokens": -1}, 400, "max_tokens"),
        (COMPLETIONS, {"max_tokens": 10**9}, 400, "max_tokens"),
        (COMPLETIONS, {"max_tokens": 1.5}, 400, "max_tokens"),
        (COMPLETIONS, {"max_tokens": "many"}, 400, "max_tokens"),
        (COMPLETIONS, {"max_tokens": True}, 400, "max_tokens"),
        (COMPLETIONS, {"temperature": -0.1}, 400, "temperature"),
        (COMPLETIONS, {"top_p": 0}, 400, "top_p"),
        (COMPLETIONS, {"seed": 2**32}, 400, "seed"),
        (COMPLETIONS, {"n": 17}, 400, "n"),
        (COMPLETIONS, {"n": 9, "prompt": ["a", "b"]}, 400, "n"),
        (COMPLETIONS, {"stop": ["a"] * 17}, 400, "stop"),
        (COMPLETIONS, {"stop": ""}, 400, "stop"),
        (COMPLETIONS, {"prompt": ""}, 400, "prompt"),
        (COMPLETIONS, {"prompt": []}, 400, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, 400, "prompt"),
        (COMPLETIONS, {"prompt": [256]}, 400, "prompt"),
        (COMPLETIONS, {"prompt": [-1]}, 400, "prompt.0"),
        (COMPLETIONS, {"prompt": ["a", 1]}, 400, "prompt.0"),
        (COMPLETIONS, {"prompt": "x" * 4001}, 400, "prompt"),
        (COMPLETIONS, {"logit_bias": {"1": 5}}, 400, "logit_bias"),
        (COMPLETIONS, {"colour": "red"}, 400, None),
        (COMPLETIONS, {"model": "gpt"}, 404, "model"),
        (COMPLETIONS, {"session_in": "nobody"}, 404, "session_in"),
        (COMPLETIONS, {"session_in": "../etc"}, 400, "session_in"),
        (COMPLETIONS, {"session_out": ".hidden"}, 400, "session_out"),
        (COMPLETIONS, {"session_out": "two", "n": 2}, 400, "session_out"),
        (CHATS, talk("robot"), 400, "messages.0.role"),
        (CHATS, talk("assistant"), 400, "messages.0.role"),
        (CHATS, talk("system"), 400, "messages.0.role"),
        (CHATS, talk(content=" \n"), 400, "messages.0.content"),
        (CHATS, talk(content=None), 400, "messages.0.content"),
        (CHATS, talk(content="x" * 5000), 400, "prompt"),
        (CHATS, {"messages": []}, 400, "messages"),
        (CHATS, talk(max_tokens=0), 400, "max_tokens"),
        (CHATS, talk(tools=[{"type": "function"}]), 400, "tools"),
    ],
)
def test_fields(client, path, fields, status, param):
    ask = {key: value for key, value in ASK.items() if path == COMPLETIONS or key == "model"}
    error = refused(client.post(path, json=ask | fields), status)
    assert error["param"] == param and error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b'{"model": "toy"}', 400),
        (b'{"model": "toy", "prompt": "caf\xe9"}', 400),
        (b'{"model": "toy", "prompt": "\\ud800"}', 400),
        (b'{"model": "toy", "prompt": "a", "temperature": NaN}', 400),
        (b'{"model": "toy", "prompt": "a", "temperature": 1e999}', 400),
        (b'{"model": "toy", "prompt": "a", "seed": ' + b"9" * 5000 + b"}", 400),
        (b"[" * 15_000, 400),
        (b'{"model": "toy", "prompt": "' + b"x" * 20_000 + b'"}', 413),
    ],
)
def test_bodies(client, data, status):
    headers = {"Content-Type": "application/json"}
    refused(client.post(COMPLETIONS, content=data, headers=headers), status)


def test_addresses_and_methods(client):
    refused(client.get("/v1/nothing"), 404)
    refused(client.get(COMPLETIONS), 405)
    refused(client.get("/v1/models/other"), 404)
    refused(client.get("/v1/sessions/nobody"), 404)
    refused(client.delete("/v1/sessions/nobody"), 404)
    refused(client.get("/v1/sessions/.hidden"), 400)
    refused(client.post("/v1/sessions/nobody/fork", json={"to": "x"}), 404)
    refused(client.get("/../setup.cfg"), 404)
    text = client.post(COMPLETIONS, content=json.dumps(ASK), headers={"Content-Type": "text/plain"})
    refused(text, 415)


def test_integers_may_be_written_with_a_point(client):
    plain = post(client, max_tokens=9)["choices"]
    assert post(client, max_tokens=9.0, seed=5.0)["choices"] == plain


def test_bad_requests_beside_a_stream_change_nothing(client):
    fields = dict(max_tokens=400, seed=11)
    alone = post(client, **fields)["choices"][0]["text"]
    texts = []
    thread = threading.Thread(
        target=lambda: texts.append(post(client, **fields)["choices"][0]["text"])
    )
    thread.start()
    for bad in ({"max_tokens": -1}, {"prompt": [999]}, {"model": "x"}, {"session_in": "no"}):
        assert client.post(COMPLETIONS, json=ASK | bad).status_code in (400, 404)
    assert client.post(COMPLETIONS, content=b"\xff").status_code == 415
    thread.join(60)
    assert texts == [alone]


def test_a_session_in_use_or_taken_is_a_conflict(tmp_path):
    with client_of(service_of(tmp_path)) as client:
        post(client, max_tokens=3, session_out="a")
        refused(client.post(COMPLETIONS, json=ASK | {"session_out": "a"}), 409)
        refused(client.post("/v1/sessions/a/fork", json={"to": "a"}), 409)
        (tmp_path / "sessions" / "a.state").write_bytes(b"broken")
        refused(client.post(COMPLETIONS, json=ASK | {"session_in": "a"}), 409)


def test_limits_of_sessions(tmp_path):
    with client_of(service_of(tmp_path, limits=LIMITS | {"max_sessions": 1})) as client:
        post(client, max_tokens=3, session_out="a")
        refused(client.post(COMPLETIONS, json=ASK | {"session_out": "b"}), 507)
        refused(client.post("/v1/sessions/a/fork", json={"to": "b"}), 507)
        post(client, max_tokens=3, prompt="", session_in="a", session_out="a")
        client.delete("/v1/sessions/a")
        post(client, max_tokens=3, session_out="b")
    with client_of(service_of(tmp_path / "x", limits=LIMITS | {"session_bytes": 10})) as client:
        refused(client.post(COMPLETIONS, json=ASK | {"session_out": "b"}), 507)


def test_a_full_queue_and_a_late_answer(tmp_path):
    limits = LIMITS | {"slots": 1, "queue": 0, "max_seconds": 1}
    with client_of(service_of(tmp_path, limits=limits)) as client:
        late = []
        ask = ASK | {"max_tokens": 200_000}
        thread = threading.Thread(target=lambda: late.append(client.post(COMPLETIONS, json=ask)))
        thread.start()
        while "requests_open 1.0" not in client.get("/metrics").text:
            pass
        full = client.post(COMPLETIONS, json=ASK)
        assert refused(full, 503)["code"] == "overloaded" and full.headers["retry-after"] == "1"
        thread.join(60)
        refused(late[0], 504)
        assert post(client, max_tokens=3)["usage"]["completion_tokens"] == 3


def test_a_token_is_needed_where_there_is_one(folder):
    with client_of(service_of(folder / "token"), token="t" * 16) as client:
        for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "t" * 16}):
            answer = client.get("/v1/models", headers=headers)
            assert refused(answer, 401)["type"] == "authentication_error"
            assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": "Bearer " + "t" * 16}
        assert client.get("/v1/models", headers=right).status_code == 200
        assert client.get("/metrics").status_code == 401
        assert client.get("/healthz").status_code == client.get("/").status_code == 200
        assert "security" in client.get("/openapi.json").json()


def test_another_name_of_the_server_is_refused(folder):
    hosts = ("localhost", "127.0.0.1")
    with client_of(service_of(folder / "host"), hosts=hosts) as client:
        assert client.get("/v1/models", headers={"Host": "localhost:8000"}).status_code == 200
        refused(client.get("/v1/models", headers={"Host": "evil.example:8000"}), 403)


def test_an_engine_that_fails_says_so_to_all(tmp_path):
    service = service_of(tmp_path)

    def fail():
        raise RuntimeError("out of memory")

    with client_of(service) as client:
        service.engine.advance = fail
        refused(client.post(COMPLETIONS, json=ASK), 500)
        refused(client.post(COMPLETIONS, json=ASK), 503)
        refused(client.get("/healthz"), 503)
