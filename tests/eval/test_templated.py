"""Talking by a chat template: what is read is the rendered conversation, from where it goes on."""

from __future__ import annotations

import io
import json

import jax.numpy as jnp
import pytest

import eval.chat.__main__ as command
import jaxmodels
from eval.chat.conventions import template_of
from eval.chat.templated import Templated
from jaxmodels import convert
from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.chat.template import ChatTemplate
from jaxmodels.errors import UserError
from jaxmodels.generation.sampling import Sampling
from tests.data.tokenizers.worlds import family
from tests.eval.tiny_bytes import Toy
from tests.goldens.chat_templates import CHATML

GREEDY = Sampling(temperature=0)
FORGETFUL = "{{ messages[-1].content }}{{ eos_token }}"


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_from_json(family("byte_level").to_str())


@pytest.fixture(scope="module")
def model(tokenizer):
    return Toy(vocab=tokenizer.vocab_size, sharpness=6.0)


def greedy(model, ids, count, ends):
    """Draw by the definition: one step a token, and no state kept."""
    state, drawn = model.initial_state(1), []
    for token in ids:
        state, out = model.step(state, jnp.full((1,), token, jnp.int32))
    while len(drawn) < count:
        token = int(jnp.argmax(out.logits[0]))
        if token in ends:
            break
        drawn.append(token)
        state, out = model.step(state, jnp.full((1,), token, jnp.int32))
    return drawn


def test_replies_are_those_to_the_rendered_text(model, tokenizer):
    template = ChatTemplate(CHATML)
    ends = (tokenizer.token_id("<|im_end|>"),)
    talk = Templated(model, tokenizer, template, (ends, ()))
    reused = []
    for turn in ("Hi", "And the dog?", "🙂"):
        asked = [*talk.messages, {"role": "user", "content": turn}]
        ids = tokenizer.encode(template.render(asked))
        before = len(talk.read)
        text = "".join(talk.reply(turn, GREEDY, 0, 9))
        drawn = greedy(model, ids, 9, ends)
        assert text == tokenizer.decode(drawn)
        assert talk.read.tolist() == [*ids, *drawn]
        assert talk.messages[-1] == {"role": "assistant", "content": text}
        assert talk.reused in (0, before)
        reused.append(talk.reused)
    assert len(talk.messages) == 6 and reused[0] == 0


def test_only_what_is_new_is_read(tokenizer):
    """One token a reply, which its text spells again (of this seed's model, a "t")."""
    model = Toy(seed=10, vocab=tokenizer.vocab_size, sharpness=6.0)
    whole = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    talk = Templated(model, tokenizer, whole)
    first = "".join(talk.reply("a", GREEDY, 0, 1))
    read = len(talk.read)
    assert tokenizer.encode(f"a{first} z")[:read].tolist() == talk.read.tolist()
    "".join(talk.reply(" z", GREEDY, 0, 1))
    assert talk.reused == read
    forgetful = Templated(model, tokenizer, ChatTemplate(FORGETFUL, {"eos_token": "."}))
    "".join(forgetful.reply("the dog", GREEDY, 0, 2))
    "".join(forgetful.reply("a fox jumps over the lazy dog", GREEDY, 0, 2))
    assert forgetful.reused == 0
    assert (
        forgetful.read[:-2].tolist() == tokenizer.encode("a fox jumps over the lazy dog.").tolist()
    )


def test_a_refused_conversation_leaves_it_as_it_was(model, tokenizer):
    source = "{% if messages | length > 1 %}{{ raise_exception('one only') }}{% endif %}a"
    talk = Templated(model, tokenizer, ChatTemplate(source))
    "".join(talk.reply("x", GREEDY, 0, 2))
    before = (list(talk.messages), talk.read.tolist())
    with pytest.raises(UserError, match="one only"):
        "".join(talk.reply("y", GREEDY, 0, 2))
    assert (talk.messages, talk.read.tolist()) == before


@pytest.fixture
def folder(tmp_path, tokenizer):
    sizes = {"version": 4, "width": 16, "num_layers": 1, "channel_size": 16}
    model = jaxmodels.create("rwkv", seed=0, vocab_size=tokenizer.vocab_size, **sizes)
    config = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    files = {"tokenizer.json": tokenizer.to_json(), "tokenizer_config.json": json.dumps(config)}
    convert.save(model, tmp_path / "model", files=files)
    return tmp_path / "model"


def test_the_command_talks_by_the_template_of_a_folder(folder, monkeypatch, capsys):
    options = [f"--workdir={folder}", "--tokens", "6", "--seed", "3"]
    stdin = type("Stdin", (), {"buffer": io.BytesIO(b"Hi\nHo\n"), "isatty": lambda self: False})
    monkeypatch.setattr(command.sys, "stdin", stdin())
    assert command.main(options) == 0
    replies = capsys.readouterr().out.splitlines()
    assert len(replies) == 2
    assert command.main([*options, "--prompt", "Hi"]) == 0
    assert capsys.readouterr().out.splitlines() == replies[:1]
    assert command.main([*options, "--prompt", "Hi", "--explain"]) == 2
    assert "--explain: not with a chat template" in capsys.readouterr().err
    assert command.main([*options, "--prompt", "Hi", "--refuse-below", "0"]) == 2
    assert "--refuse-below: not with a chat template" in capsys.readouterr().err
    (folder / "tokenizer_config.json").unlink()
    assert command.main([*options, "--prompt", "Hi"]) == 2
    assert "its folder has no chat template" in capsys.readouterr().err


def test_a_template_counts_unless_the_run_is_on_conversations(folder):
    assert template_of(folder, chats=False).source == CHATML
    assert template_of(folder, chats=True) is None
