"""Streaming in segments equals one forward pass; the file is read incrementally."""

import itertools
import json
import shutil

import jax
import numpy as np
import pytest

from eval import stream as streaming
from eval.stream import main, stream, tokens_of
from jaxmodels.data import ByteTokenizer, WordTokenizer
from jaxmodels.errors import UserError
from tests.eval.tiny_bytes import Toy


def test_segments_carry_the_state():
    model, tokens = Toy(), np.random.default_rng(0).integers(0, 256, 101)
    found = stream(model, iter([tokens[:30], tokens[30:]]), 100, segment=20, window=40)
    _, out = model(model.initial_state(1), tokens[None, :100])
    log_p = np.asarray(jax.nn.log_softmax(out.logits[0], -1))
    nats = -log_p[np.arange(100), tokens[1:]]
    np.testing.assert_allclose(found["losses"], [nats[:40].mean(), nats[40:80].mean()], rtol=1e-5)
    assert found["tokens"] == 100 and found["state_bytes"] == 64
    assert found["weight_bytes"] == sum(x.nbytes for x in jax.tree.leaves(model))
    assert found["peak_bytes_late"] >= found["peak_bytes_early"] > 2**20


def test_stream_uses_constant_memory_and_one_compilation():
    model, text = Toy(), itertools.repeat(np.arange(256, dtype=np.int32))
    stream(model, text, 64, segment=32, window=32)
    compiled = streaming._segment._cache_size()
    alive = sum(array.nbytes for array in jax.live_arrays())
    found = stream(model, text, 3200, segment=32, window=320)
    assert streaming._segment._cache_size() == compiled
    assert sum(array.nbytes for array in jax.live_arrays()) <= alive
    assert len(found["losses"]) == 10


def test_tokens_of_equals_encoding_the_whole_file(tmp_path, monkeypatch):
    text = "some words that\nare cut\n in pieces and end without a break"
    path = tmp_path / "text.txt"
    path.write_text(text)
    monkeypatch.setattr(streaming, "PIECE", 7)

    def read(tokenizer, count):
        pieces, found = tokens_of(path, tokenizer), np.zeros(0, np.int32)
        while len(found) < count:
            found = np.concatenate([found, next(pieces)])
        return found[:count]

    whole = ByteTokenizer().encode(text)
    np.testing.assert_array_equal(read(ByteTokenizer(), len(whole) + 9), [*whole, *whole[:9]])
    words = WordTokenizer(("<pad>", "<unk>", *dict.fromkeys(text.split())))
    np.testing.assert_array_equal(read(words, len(text.split())), words.encode(text))


def test_unreadable_files(tmp_path):
    (tmp_path / "empty").write_text("")
    (tmp_path / "latin").write_bytes(b"caf\xe9 " * 3)
    for name, message in (("empty", "no token"), ("latin", "not UTF-8"), ("none", "No such file")):
        with pytest.raises(UserError, match=message):
            list(itertools.islice(tokens_of(tmp_path / name, ByteTokenizer()), 5))


def test_non_finite_loss_is_an_error():
    model = jax.tree.map(lambda x: x * np.nan, Toy())
    with pytest.raises(UserError, match="after 32 tokens"):
        stream(model, itertools.repeat(np.arange(64, dtype=np.int32)), 64, segment=32, window=32)


def test_command_line(finished, texts, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    file = sorted(texts.glob("*.txt"))[0]
    flags = [f"--workdir={run}", f"--data={file}", "--segment=64", "--window=512"]
    assert main([*flags, "--tokens=5120"]) == 0
    found = json.loads((run / "stream.json").read_text())
    assert found["tokens"] == 5120 and len(found["losses"]) == 10  # more than the file has
    assert "<svg" in (run / "stream.html").read_text()
    assert "5,120 tokens" in capsys.readouterr().out
    assert main([*flags, "--tokens=10"]) == 2
    assert "--segment" in capsys.readouterr().err
