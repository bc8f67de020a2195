"""The tokenizer travels with converted weights, and the folder is evaluated like a run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import eval.sample
import eval.stream
import jaxmodels
from eval.run import load_run, load_trained
from jaxmodels import convert
from jaxmodels.convert import tokenizer as module
from jaxmodels.convert.__main__ import main
from jaxmodels.data.chat.template import read_template
from jaxmodels.data.tokenizers.folder import endings, read_tokenizer
from jaxmodels.errors import UserError
from tests.convert.common import GOLDENS
from tests.data.tokenizers.test_rwkv_world import SMALL, VOCABULARY
from tests.data.tokenizers.worlds import family

CONFIG = {"chat_template": "{{ messages[0].content }}{{ eos_token }}", "eos_token": "dog"}


def write(folder, **files):
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture
def source(tmp_path):
    """A Mamba of transformers with 50 ids, and a tokenizer of 5."""
    folder = tmp_path / "source"
    shutil.copytree(GOLDENS / "mamba", folder)
    fields = json.loads((folder / "config.json").read_text()) | {"eos_token_id": 3}
    return write(
        folder,
        config__json=fields,
        tokenizer__json=family("no_decoder").to_str(),
        tokenizer_config__json=CONFIG,
        README__md="not of the tokenizer",
    )


def rwkv(tmp_path, vocab_size):
    sizes = {"version": 7, "width": 16, "num_layers": 1, "head_size": 8}
    model = jaxmodels.create("rwkv", seed=0, vocab_size=vocab_size, **sizes)
    path = tmp_path / f"rwkv{vocab_size}.safetensors"
    convert.save(model, path, "blinkdl")
    return path


@pytest.mark.parametrize("to", ["jaxmodels", "huggingface"])
def test_a_folder_brings_its_tokenizer(source, tmp_path, to, capsys):
    dest = tmp_path / "dest"
    assert main([str(source), str(dest), "--to", to]) == 0
    told = capsys.readouterr().out.splitlines()
    names = "generation_config.json, tokenizer.json, tokenizer_config.json"
    assert told[1:] == [
        f"{names}: the tokenizer has 5 ids, 45 fewer than the model, whose others decode to no text"
    ]
    tokenizer = read_tokenizer(dest)
    assert tokenizer.to_json() == (source / "tokenizer.json").read_text()
    assert read_template(dest).render([{"role": "user", "content": "Hi"}]) == "Hidog"
    assert endings(dest, tokenizer) == ((3,), ())
    assert not (dest / "README.md").exists()
    trained, again = load_trained(dest)
    assert again == tokenizer and trained.model.config.vocab_size == 50
    assert "45 fewer than the model" in capsys.readouterr().err


def test_a_named_tokenizer(tmp_path, capsys):
    vocabulary = write(tmp_path, vocabulary__txt=VOCABULARY) / "vocabulary.txt"
    dest = tmp_path / "dest"
    size = SMALL.vocab_size
    arguments = [str(rwkv(tmp_path, size)), str(dest), "--tokenizer", str(vocabulary)]
    assert main(arguments) == 0
    assert f"{size} ids, as the model" in capsys.readouterr().out.splitlines()[1]
    assert load_trained(dest)[1] == SMALL
    assert endings(dest, SMALL) == ((0,), ("\n\nUser:",))


def test_without_the_library_files_are_copied_unread(source, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert main([str(source), str(tmp_path / "dest")]) == 0
    assert "copied unread" in capsys.readouterr().out
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "dest" / name).read_bytes() == (source / name).read_bytes()


def test_mistakes_get_one_line(source, tmp_path, capsys):
    small, dest = rwkv(tmp_path, 64), str(tmp_path / "dest")
    vocabulary = write(tmp_path, vocabulary__txt=VOCABULARY) / "vocabulary.txt"
    for arguments, says in [
        (
            [small, dest, "--tokenizer", vocabulary],
            f"has {SMALL.vocab_size} ids and the model",
        ),
        ([small, dest, "--tokenizer", tmp_path / "no.json"], "no such file or folder"),
        ([source, dest, "--tokenizer", tmp_path], "no tokenizer in this folder"),
        (
            [small, dest, "--to", "blinkdl", "--tokenizer", source],
            "blinkdl is a file, which holds no tokenizer",
        ),
    ]:
        assert main([str(x) for x in arguments]) == 2
        told = capsys.readouterr()
        assert says in told.err and told.err.count("\n") == 1 and not told.out
    write(source, tokenizer__json='{"model": {"type": "BPE"')
    assert main([str(source), dest]) == 2
    assert "source/tokenizer.json: not a tokenizer description" in capsys.readouterr().err


def test_a_folder_of_weights_is_sampled_streamed_and_read(source, tmp_path, capsys):
    convert.save(convert.load(source), tmp_path / "bare")
    with pytest.raises(UserError, match="no tokenizer in this folder of weights; copy"):
        load_trained(tmp_path / "bare")
    main([str(source), str(tmp_path / "dest")])
    text = tmp_path / "text.txt"
    text.write_text("the fox the dog " * 40)
    at = f"--workdir={tmp_path / 'dest'}"
    capsys.readouterr()
    assert eval.sample.main([at, "--prompt", "the fox", "--tokens", "4"]) == 0
    assert capsys.readouterr().out.startswith("the fox")
    options = ["--tokens", "40", "--segment", "8", "--window", "8"]
    assert eval.stream.main([at, "--data", str(text), *options]) == 0
    run = load_run(tmp_path / "dest", paths=(str(text),))
    assert run.corpus.tokenizer.name == "huggingface" and run.step == 0
    with pytest.raises(UserError, match="weights without a text; name one with --data"):
        load_run(tmp_path / "dest")


def test_a_model_of_bytes_needs_no_tokenizer(tmp_path):
    convert.save(convert.load(rwkv(tmp_path, 256)), tmp_path / "bytes")
    trained, tokenizer = load_trained(tmp_path / "bytes")
    assert tokenizer.name == "byte" and trained.config.model == "rwkv"
    np.testing.assert_array_equal(tokenizer.encode("a"), [97])
