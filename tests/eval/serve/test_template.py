"""A converted folder with a chat template, served: the replies are those of `eval.chat`."""

from __future__ import annotations

import json

import pytest

import jaxmodels
from eval.chat.templated import Templated
from eval.run import load_trained
from eval.serve import __main__ as command
from eval.serve.limits import Limits
from jaxmodels import convert
from jaxmodels.data.chat.template import read_template
from jaxmodels.data.tokenizers.folder import endings
from jaxmodels.generation.sampling import Sampling
from tests.data.tokenizers.worlds import family
from tests.eval.serve.conftest import LIMITS, client_of
from tests.goldens.chat_templates import CHATML


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = family("byte_level")
    size = tokenizer.get_vocab_size()
    sizes = {"version": 4, "width": 16, "num_layers": 1, "channel_size": 16}
    model = jaxmodels.create("rwkv", seed=0, vocab_size=size, **sizes)
    config = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    files = {"tokenizer.json": tokenizer.to_str(), "tokenizer_config.json": json.dumps(config)}
    path = tmp_path_factory.mktemp("served") / "model"
    convert.save(model, path, files=files)
    return path


def test_replies_over_http_are_those_of_the_template(folder):
    flags, sessions = command._flags([f"--workdir={folder}"]), folder / "sessions"
    service = command._service(flags, Limits(**LIMITS), *load_trained(folder), sessions)
    trained, tokenizer = load_trained(folder)
    talk = Templated(trained.model, tokenizer, read_template(folder), endings(folder, tokenizer))
    text = "".join(talk.reply("Hi 🙂", Sampling(temperature=0), 0, 8))
    body = {"model": "model", "max_tokens": 8, "temperature": 0.0}
    hi = [{"role": "user", "content": [{"type": "text", "text": "Hi 🙂"}]}]
    with client_of(service) as client:
        answer = client.post("/v1/chat/completions", json=body | {"messages": hi})
        assert answer.status_code == 200, answer.text
        assert answer.json()["choices"][0]["message"]["content"] == text
        wrong = client.post(
            "/v1/chat/completions", json=body | {"messages": [{"role": "robot", "content": "x"}]}
        )
        assert wrong.status_code == 400 and "role" in wrong.json()["error"]["message"]
