"""Chats over HTTP: the model's own format, as eval.chat speaks it, and chat templates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from eval.chat.conventions import REFUSAL
from eval.chat.conversation import Conversation, Options, Reply
from jaxmodels.data.chat.exchange import BEGIN, END
from jaxmodels.generation.sampling import Sampling
from jaxmodels.session import load_session
from tests.eval.serve.conftest import client_of, service_of
from tests.eval.serve.test_completions import post, streamed
from tests.eval.tiny_bytes import Toy
from tests.models.rnk.small import small_model

PATH = "/v1/chat/completions"
USER, MODEL = "user", "assistant"


def messages(*texts):
    roles = [USER if i % 2 == 0 else MODEL for i in range(len(texts))]
    return [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]


def chat(client, *texts, **fields):
    body = {"messages": messages(*texts), "temperature": 0.0}
    answer = client.post(PATH, json={"model": "toy", "max_tokens": 20, **body, **fields})
    assert answer.status_code == 200, answer.text
    return answer.json()


def text_of(body):
    return body["choices"][0]["message"]["content"]


@pytest.fixture(scope="module")
def rnk():
    return small_model(chunk_size=8)


@pytest.fixture(scope="module")
def rnk_client(rnk, folder):
    with client_of(service_of(folder / "rnk", rnk, chats=True)) as client:
        yield client


def test_a_reply_is_that_of_eval_chat(rnk, rnk_client):
    body = chat(rnk_client, "hello", "hi", "how are\n you?")
    conversation = Conversation(rnk)
    conversation.answer(conversation.hear("hello"), "hi")
    reply = Reply(rnk, conversation.hear("how are\n you?"), Options(Sampling(0.0), tokens=20))
    assert text_of(body) == "".join(reply)
    assert body["object"] == "chat.completion" and body["usage"]["completion_tokens"] > 0
    assert body["usage"]["prompt_tokens"] % 8 == 0  # whole chunks


def test_a_stream_joins_to_the_reply(client):
    body = dict(messages=messages("hello"), temperature=1.2, stop="e", max_tokens=60)
    whole = post(client, PATH, **body)
    pieces = streamed(client, PATH, **body)
    first = pieces[0]["choices"][0]["delta"]
    assert first == {"role": "assistant", "content": ""}
    joined = "".join(p["choices"][0]["delta"]["content"] for p in pieces)
    assert joined == text_of(whole) and "e" not in joined
    assert pieces[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]


def test_a_session_continues_the_conversation(rnk, rnk_client, folder):
    greedy = dict(temperature=0.0)
    first = text_of(chat(rnk_client, "hello", session_out="talk"))
    second = text_of(chat(rnk_client, "and you?", session_in="talk", session_out="talk"))
    assert second == text_of(chat(rnk_client, "hello", first, "and you?", **greedy))
    conversation = Conversation(rnk)
    for prompt, reply in (("hello", first), ("and you?", second)):
        conversation.answer(conversation.hear(prompt), reply)
    saved = load_session(folder / "rnk" / "sessions" / "talk.state", rnk)
    assert saved.tokens_read == conversation.session.tokens_read
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        saved.state,
        conversation.session.state,
    )


def test_heads_are_shown_and_refuse(rnk, folder):
    unsure = jax.tree.map(lambda x: x, rnk)
    unsure.answerable.bias = nnx.Param(jnp.full_like(unsure.answerable.bias[...], -30.0))
    with client_of(service_of(folder / "r", unsure, refuse_below=0.5)) as client:
        body = chat(client, "hello", n=2)
        assert [c["message"]["content"] for c in body["choices"]] == [REFUSAL] * 2
        assert body["choices"][0]["finish_reason"] == "stop"
        pieces = streamed(client, PATH, messages=messages("hello"))
        assert "".join(p["choices"][0]["delta"]["content"] for p in pieces) == REFUSAL
    with client_of(service_of(folder / "s", rnk, chats=True)) as client:
        rows = chat(client, "hello", inside=True)["choices"][0]["inside"]
        assert {"intent", "answerable", "stop", "plan_norm", "norm"} <= rows[0].keys()
        assert sum(rows[0]["intent"].values()) == pytest.approx(1, abs=1e-2)
        assert len(rows[0]["norm"]) == rnk.config.num_layers


def test_the_end_of_a_reply_stops_it(folder):
    class Ends(Toy):
        """Model that says A and B after the mark, and then ends."""

        def step(self, state, token):
            state, out = super().step(state, token)
            following = jnp.select(
                [token == BEGIN, token == ord("A"), token == ord("B")], [65, 66, END], 0xE2
            )
            return state, out.replace(logits=99 * jax.nn.one_hot(following, 256))

    with client_of(service_of(folder / "e", Ends())) as client:
        body = chat(client, "hello")
        assert (text_of(body), body["choices"][0]["finish_reason"]) == ("AB", "stop")
        assert body["usage"]["completion_tokens"] == 2


class Template:
    """What a chat template does for the server."""

    def render(self, messages):
        if any(m["role"] == "tool" for m in messages):
            raise ValueError("no tools")
        return "".join(f"<{m['role']}>{m['content']}\n" for m in messages) + "<assistant>"


def test_a_chat_template_gives_the_prompt(folder):
    service = service_of(folder / "t", template=Template(), endings=((), ("\x01",)))
    with client_of(service) as client:
        system = [{"role": "system", "content": "Be kind."}, *messages("hello")]
        body = chat(client, messages=system, temperature=1.0, seed=3, stop="~")
        asked = "<system>Be kind.\n<user>hello\n<assistant>"
        same = post(client, prompt=asked, max_tokens=20, seed=3, stop=["~", "\x01"])
        assert text_of(body) == same["choices"][0]["text"]
        for fields, status in (({"session_in": "x"}, 404), ({"session_out": "x"}, 400)):
            ask = {"model": "toy", "messages": system, **fields}
            assert client.post(PATH, json=ask).status_code == status
        tool = {"model": "toy", "messages": [{"role": "tool", "content": "x"}]}
        answer = client.post(PATH, json=tool)
        assert answer.status_code == 400 and answer.json()["error"]["message"] == "no tools"
