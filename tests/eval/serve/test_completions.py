"""Completions over HTTP equal those in code, streamed or not, alone or interleaved."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxmodels import generate
from jaxmodels.data import ByteTokenizer
from jaxmodels.session import load_session
from tests.eval.serve.conftest import client_of, service_of
from tests.eval.tiny_bytes import Toy
from tests.generation.driving import same_session

ASK = {"model": "toy", "prompt": "We the people", "max_tokens": 30, "seed": 5}
BYTES = ByteTokenizer()


@pytest.fixture(scope="module")
def model():
    return Toy()


def asked(path, fields):
    return {k: v for k, v in (ASK | fields).items() if k != "prompt" or "chat" not in path}


def post(client, path="/v1/completions", **fields):
    answer = client.post(path, json=asked(path, fields))
    assert answer.status_code == 200, answer.text
    return answer.json()


def streamed(client, path="/v1/completions", **fields):
    """The objects of a streamed answer."""
    answer = client.post(path, json=asked(path, {"stream": True} | fields))
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


def test_an_answer_is_what_generate_gives(client, model):
    body = post(client)
    expected = generate(model, ASK["prompt"], 30, seed=5, tokenizer=BYTES)
    choice = body["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == (expected.text, "length")
    usage = {"prompt_tokens": 13, "completion_tokens": 30, "total_tokens": 43}
    assert body["usage"] == usage and body["object"] == "text_completion"
    assert body["model"] == "toy" and body["id"].startswith("cmpl-") and body["created"] > 0


def test_a_stream_joins_to_the_answer(client):
    options = dict(stop=["q", "z!"], max_tokens=80, temperature=1.3)
    whole = post(client, **options)
    pieces = streamed(client, stream_options={"include_usage": True}, **options)
    assert pieces.pop()["usage"] == whole["usage"]
    assert "".join(p["choices"][0]["text"] for p in pieces) == whole["choices"][0]["text"]
    reasons = [p["choices"][0]["finish_reason"] for p in pieces]
    assert reasons[-1] == whole["choices"][0]["finish_reason"] and not any(reasons[:-1])
    assert len({p["id"] for p in pieces}) == 1 and "q" not in whole["choices"][0]["text"]


def test_several_prompts_and_choices(client):
    prompts = ["a", "We the people"]
    body = post(client, prompt=prompts, n=2, max_tokens=9)
    texts = [choice["text"] for choice in body["choices"]]
    expected = [
        post(client, prompt=prompt, seed=seed, max_tokens=9)["choices"][0]["text"]
        for prompt in prompts
        for seed in (5, 6)
    ]
    assert texts == expected and [c["index"] for c in body["choices"]] == [0, 1, 2, 3]
    assert body["usage"]["prompt_tokens"] == 14 and body["usage"]["completion_tokens"] == 36
    ids = [list(prompt.encode()) for prompt in prompts]
    assert [c["text"] for c in post(client, prompt=ids, n=2, max_tokens=9)["choices"]] == texts
    pieces = streamed(client, prompt=prompts, n=2, max_tokens=9)
    joined = [""] * 4
    for piece in pieces:
        joined[piece["choices"][0]["index"]] += piece["choices"][0]["text"]
    assert joined == texts


def test_log_probabilities_have_the_shape_of_the_api(client, model):
    body = post(client, logprobs=3, prompt="ab", max_tokens=5)
    given = body["choices"][0]["logprobs"]
    expected = generate(model, "ab", 5, seed=5, tokenizer=BYTES, logprobs=3, slots=4)
    assert given["token_logprobs"] == expected.logprobs
    assert [len(top) for top in given["top_logprobs"]] == [3] * 5
    assert len(given["tokens"]) == len(given["text_offset"]) == 5
    parts = [p["choices"][0]["logprobs"] for p in streamed(client, logprobs=3, prompt="ab")]
    joined = [x for part in parts for x in part["token_logprobs"]]
    assert joined[:5] == expected.logprobs and len(joined) == 30


def test_offsets_are_places_in_the_text(client):
    choice = post(client, logprobs=0, temperature=2)["choices"][0]
    tokens, offsets = (choice["logprobs"][name] for name in ("tokens", "text_offset"))
    assert any(len(token) > 1 for token in tokens) and offsets == sorted(offsets)
    text = choice["text"]
    places = [(t, text[o]) for t, o in zip(tokens, offsets, strict=True) if len(t) == 1]
    # A byte after an incomplete character completes U+FFFD and itself.
    assert len(places) > 5 and all(symbol in (token, "\ufffd") for token, symbol in places)


def test_bytes_of_tokens_join_to_the_text(client):
    asked = dict(messages=[{"role": "user", "content": "hello"}], max_tokens=60, temperature=3)
    choice = post(client, "/v1/chat/completions", logprobs=True, **asked)["choices"][0]
    entries = choice["logprobs"]["content"]
    data = bytes(byte for entry in entries for byte in entry["bytes"])
    assert data.decode(errors="replace").rstrip("\ufffd") == choice["message"]["content"]
    assert any(entry["token"].startswith("token_id:") for entry in entries)  # part of a character


def test_without_a_seed_answers_differ(client):
    texts = {post(client, seed=None)["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


def test_interleaved_equals_alone(client):
    every = [
        dict(prompt="x" * (7 * i + 1), seed=i, max_tokens=20 + 9 * i, top_p=0.9, n=1)
        for i in range(8)
    ]
    alone = [post(client, **fields)["choices"][0] for fields in every]
    with ThreadPoolExecutor(8) as pool:  # as many as slots and queue have places
        together = list(pool.map(lambda fields: post(client, **fields)["choices"][0], every))
    assert together == alone


def test_a_look_inside(client):
    plain = post(client, max_tokens=7)["choices"][0]
    seen = post(client, max_tokens=7, inside=True)["choices"][0]
    assert seen["text"] == plain["text"] and "inside" not in plain
    assert len(seen["inside"]) == 7
    assert all(row["norm"][0] > 0 and 0 <= row["change"][0] for row in seen["inside"])
    pieces = streamed(client, max_tokens=7, inside=True)
    joined = [row for p in pieces for row in p["choices"][0].get("inside", [])]
    assert joined == seen["inside"]


def test_a_session_continues_where_it_was_saved_also_after_a_restart(model, tmp_path):
    with client_of(service_of(tmp_path)) as client:
        whole = post(client, max_tokens=40, session_out="whole")["choices"][0]["text"]
        start = post(client, max_tokens=13, session_out="a")["choices"][0]["text"]
        fork = client.post("/v1/sessions/a/fork", json={"to": "b"})
        assert fork.status_code == 200 and fork.json()["id"] == "b"
    with client_of(service_of(tmp_path)) as client:
        rest = dict(prompt="", max_tokens=27, session_in="a", session_out="a")
        texts = [start + post(client, **rest)["choices"][0]["text"]]
        pieces = streamed(client, **(rest | {"session_in": "b", "session_out": "c"}))
        texts.append(start + "".join(p["choices"][0]["text"] for p in pieces))
        assert texts == [whole] * 2
        files = [tmp_path / "sessions" / f"{name}.state" for name in ("whole", "a", "c")]
        states = [load_session(file, model) for file in files]
        assert same_session(states[0], states[1]) and same_session(states[0], states[2])
        listed = client.get("/v1/sessions").json()
        assert listed["data"] == ["a", "b", "c", "whole"] and listed["bytes"] > 0
        assert client.get("/v1/sessions/a").json()["bytes"] == files[1].stat().st_size
        assert client.delete("/v1/sessions/a").json()["deleted"] is True
        assert client.get("/v1/sessions/a").status_code == 404 and not files[1].exists()


def test_what_was_left_unfinished_is_removed(tmp_path):
    (tmp_path / "sessions").mkdir()
    (tmp_path / "sessions" / ".a.123.tmp").write_bytes(b"half")
    service = service_of(tmp_path)
    assert len(service.store) == 0 and not list((tmp_path / "sessions").iterdir())


def test_prefixes_are_reused_and_change_nothing(client):
    fields = dict(prompt="All history is here. " * 20, max_tokens=15)
    first = post(client, **fields)
    before = hits(client)
    assert post(client, **fields)["choices"] == first["choices"]
    assert hits(client) == before + 6  # whole pieces of 64 of the 420 bytes


def hits(client):
    text = client.get("/metrics").text
    return float(re.search(r"^jaxmodels_prefix_hits (\S+)$", text, re.M)[1])


def test_other_endpoints(client):
    card = client.get("/v1/models").json()["data"][0]
    assert (card["id"], card["vocabulary"], card["chat"]) == ("toy", 256, True)
    assert client.get("/v1/models/toy").json() == card
    assert client.get("/healthz").json() == {"status": "ok"}
    page = client.get("/")
    assert page.status_code == 200 and "text/html" in page.headers["content-type"]
    assert "default-src 'self'" in page.headers["content-security-policy"]
    text = client.get("/metrics").text
    for name in ("requests_total", "generated_tokens_total", "time_to_first_token_seconds_count"):
        assert re.search(rf"^jaxmodels_{name}\b.* [1-9]", text, re.M), name
    assert "We the people" not in text
