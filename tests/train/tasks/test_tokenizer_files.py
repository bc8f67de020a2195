"""Training with a tokenizer of the world: its file travels with the run."""

from __future__ import annotations

import json

import pytest

import eval.sample
from eval.run import load_run, load_trained
from jaxmodels.data.chat.template import read_template
from jaxmodels.data.chat.tokens import fitted
from jaxmodels.data.tokenizers.folder import read_tokenizer
from jaxmodels.errors import UserError
from tests.data.tokenizers.worlds import TEXTS, family
from train.config import complete_config, validate_config
from train.loop import run
from train.tasks import open_task

MODEL = {"version": 4, "width": 16, "num_layers": 1, "channel_size": 16}


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "tokens"
    path.mkdir()
    (path / "tokenizer.json").write_text(family("byte_level").to_str(), encoding="utf-8")
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    return path


def config_of(tmp_path, tokenizer, **model):
    text = tmp_path / "text.txt"
    text.write_text("\n".join(TEXTS * 20), encoding="utf-8")
    return complete_config(
        {
            "model": "rwkv",
            "model_config": MODEL | model,
            "steps": 2,
            "batch_size": 8,
            "seq_len": 8,
            "eval_every": 2,
            "checkpoint_every": 2,
            "data": {"paths": (str(text),), "tokenizer": str(tokenizer), "eval_tokens": 64},
        }
    )


def test_a_run_keeps_its_tokenizer(folder, tmp_path, capsys):
    workdir = tmp_path / "run"
    config = config_of(tmp_path, folder)
    config.model = "tests.eval.tiny_bytes:Toy"
    config.model_config = {"vocab": read_tokenizer(folder).vocab_size}
    run(config, workdir, quiet=True)
    assert (workdir / "tokenizer.json").read_text() == (folder / "tokenizer.json").read_text()
    assert read_template(workdir).source == "x"
    (folder / "tokenizer.json").unlink()  # the run has its own
    trained, tokenizer = load_trained(workdir)
    assert tokenizer.name == "huggingface"
    loaded = load_run(workdir)
    assert loaded.corpus.fingerprint() == trained.data
    arguments = [f"--workdir={workdir}", "--prompt", "The dog", "--tokens", "4"]
    assert eval.sample.main(arguments) == 0
    assert capsys.readouterr().out.startswith("The dog")


def test_sizes_of_the_model(folder, tmp_path):
    size = read_tokenizer(folder).vocab_size
    task = open_task(config_of(tmp_path, folder / "tokenizer.json", vocab_size=512))
    assert task.config.model_config.vocab_size == 512  # rounded up
    assert open_task(config_of(tmp_path, folder)).config.model_config.vocab_size == size
    with pytest.raises(UserError, match=rf"300, but the '.*tokens' tokenizer has {size}"):
        open_task(config_of(tmp_path, folder, vocab_size=300))
    with pytest.raises(UserError, match="512, but the 'byte' tokenizer has 256"):
        open_task(config_of(tmp_path, "byte", vocab_size=512))


def test_bad_names_get_one_line(tmp_path):
    with pytest.raises(UserError, match=r"config.data.tokenizer: .*'bite'"):
        validate_config(config_of(tmp_path, "bite"))
    with pytest.raises(UserError, match="no such file or folder"):
        open_task(config_of(tmp_path, tmp_path / "tokenizer.json"))


def test_conversations_have_marks_after_its_ids(folder):
    from jaxmodels.data.chat.exchange import ChatCorpus

    corpus = fitted(ChatCorpus("none", (), (), (), "", ()), str(folder), 300)
    assert corpus.tokenizer.vocab_size == read_tokenizer(folder).vocab_size + 3
