"""Sampling equals the full forward pass, in constant memory, compiled once, repeatable."""

import itertools
import os
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval import sample as sampling
from eval.sample import main, sample
from jaxmodels.data import ByteTokenizer, CharTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.stream import TextStream
from jaxmodels.errors import UserError
from jaxmodels.generation.engine import MANY
from jaxmodels.generation.programs import programs_of
from jaxmodels.generation.sampling import Sampling
from tests.eval.tiny_bytes import Toy

PROMPT = "We the people"


@pytest.fixture(scope="module")
def model():
    return Toy()


def text(model, **options):
    return "".join(sample(model, ByteTokenizer(), options.pop("prompt", PROMPT), **options))


class Bytes(ByteTokenizer):
    """Tokenizer that decodes every token to one character."""

    def decode(self, tokens):
        return "".join(chr(int(token)) for token in tokens)

    def stream(self, context=()):
        return TextStream(self.decode, context)


def tokens_of(model, prompt, count, **options):
    tokenizer = Bytes(name="raw")
    pieces = list(sample(model, tokenizer, prompt, tokens=count, **options))
    return np.array([ord(piece) for piece in pieces])


def test_greedy_is_the_argmax_of_the_full_forward_pass(model):
    count = MANY + 9  # not a multiple of a chunk
    greedy = tokens_of(model, PROMPT, count, choice=Sampling(temperature=0))
    assert len(greedy) == count
    prompt = np.frombuffer(PROMPT.encode(), np.uint8)
    whole = np.concatenate([prompt, greedy]).astype(np.int32)
    _, out = model(model.initial_state(1), jnp.asarray(whole)[None])
    expected = np.asarray(jnp.argmax(out.logits[0, len(prompt) - 1 : -1], -1))
    np.testing.assert_array_equal(greedy, expected)


def test_prefill_in_pieces_gives_the_same_text(model, monkeypatch):
    prompt = "All history is here. " * 3
    once = text(model, prompt=prompt, tokens=20, choice=Sampling(temperature=0))
    monkeypatch.setattr(sampling, "PIECE", 17)
    assert text(model, prompt=prompt, tokens=20, choice=Sampling(temperature=0)) == once


def test_same_seed_repeats_and_other_seeds_differ(model):
    runs = [text(model, tokens=64, seed=seed) for seed in (0, 0, 1, 2)]
    assert runs[0] == runs[1]
    assert len(set(runs)) == 3


def test_chunks_do_not_repeat_their_random_numbers():
    flat = Toy(sharpness=0.0)  # uniform over the vocabulary: only the keys matter
    tokens = tokens_of(flat, "x", 4 * MANY, choice=Sampling(temperature=1.0)).reshape(4, MANY)
    assert len(np.unique(tokens, axis=0)) == 4


def test_compiled_once_and_constant_memory(model):
    options = dict(tokens=None, choice=Sampling(temperature=1.3))
    stream = sample(model, Bytes(name="raw"), PROMPT, **options)
    next(stream)
    decode = programs_of(jax.tree.structure(model), 1, MANY, None).decode
    assert decode._cache_size() == 1

    def live():
        return sum(array.nbytes for array in jax.live_arrays())

    list(itertools.islice(stream, MANY))
    before = live()
    list(itertools.islice(stream, 20 * MANY))
    assert live() <= before
    assert decode._cache_size() == 1


def test_empty_prompt_starts_after_a_line_break(model):
    greedy = dict(tokens=12, choice=Sampling(temperature=0))
    assert text(model, prompt="", **greedy) == text(model, prompt="\n", **greedy) != ""
    words = WordTokenizer(("<pad>", "<unk>", "we", "the"))
    assert len(list(sample(Toy(vocab=4), words, "", tokens=5))) == 5


def test_pieces_are_whole_characters():
    class Snowman(Toy):
        """Model that repeats the three bytes of a snowman."""

        def step(self, state, token):
            following = jnp.select([token == 0xE2, token == 0x98], [0x98, 0x83], 0xE2)
            _, out = super().step(state, token)
            return state, out.replace(logits=10 * jax.nn.one_hot(following, 256))

    pieces = list(
        sample(Snowman(), ByteTokenizer(), "\n", tokens=7, choice=Sampling(temperature=0))
    )
    assert pieces == ["☃", "☃", "\ufffd"]


@pytest.mark.parametrize("seed", ["1e20", "4294967296", "-1", "", "x", "9" * 5000, "²"])
def test_invalid_seed(seed, capsys):
    assert main(["--workdir=run", f"--seed={seed}"]) == 2
    _, error = capsys.readouterr()
    assert error.startswith(f"error: --seed={seed}"[:400])
    assert "give a whole number below 2^32" in error
    assert error.count("\n") == 1


def test_unknown_symbols_of_a_prompt_are_told(model, monkeypatch, capsys):
    trained = types.SimpleNamespace(model=model), CharTokenizer("We thpol")
    monkeypatch.setattr("eval.run.load_trained", lambda *_: trained)
    monkeypatch.setattr(sampling, "sample", lambda *_, **__: [])
    assert main(["--workdir=run", "--prompt=We, the people"]) == 0
    out, error = capsys.readouterr()
    assert out == "We, the people\n"
    assert error == (
        "warning: unknown to the tokenizer: 1 of the 14 symbols (7.1%) of the prompt, such as ','\n"
    )
    assert main(["--workdir=run", "--prompt=We"]) == 0 and not capsys.readouterr().err


def test_a_prompt_that_is_no_text(capsys):
    assert main(["--workdir=run", "--prompt=caf\udce9"]) == 2
    error = capsys.readouterr().err
    assert error == "error: --prompt: must be UTF-8, its symbol 4 is not\n"


@pytest.mark.parametrize("length", ["--follow", "--tokens=100000000"])
def test_sampling_stops_when_the_pipe_closes(model, monkeypatch, length):
    trained = types.SimpleNamespace(model=model), ByteTokenizer()
    monkeypatch.setattr("eval.run.load_trained", lambda *_: trained)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert main(["--workdir=run", length]) == 0


@pytest.mark.parametrize(
    ("format", "fix"), [("pairs", "; use python -m eval.predict"), ("text", " (it has no step())")]
)
def test_a_model_that_does_not_continue_text(format, fix, monkeypatch, capsys):
    config = types.SimpleNamespace(model="hrlm", data=types.SimpleNamespace(format=format))
    trained = types.SimpleNamespace(model=object(), config=config), ByteTokenizer()
    monkeypatch.setattr("eval.run.load_trained", lambda *_: trained)
    assert main(["--workdir=run"]) == 2
    error = capsys.readouterr().err
    assert error == f"error: --workdir=run: a 'hrlm' does not continue text{fix}\n"


def test_bad_arguments(model):
    with pytest.raises(UserError, match="tokens=0"):
        sample(model, ByteTokenizer(), "x", tokens=0)
    with pytest.raises(UserError, match="no step"):
        sample(object(), ByteTokenizer(), "x")
