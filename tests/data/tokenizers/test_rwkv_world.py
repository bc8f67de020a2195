"""RWKV World: greedy longest match over bytes, equal to the package that ships the vocabulary."""

from __future__ import annotations

import functools
import importlib.util

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers import rwkv_world
from jaxmodels.data.tokenizers.rwkv_world import RWKVWorldTokenizer, read_packaged
from jaxmodels.errors import UserError

TOKENS = [*(bytes([i]) for i in range(256)), b"the", b" the", b"then", "é".encode(), b"\n\n"]
TOKENS += ["你好".encode(), "你".encode()[:2], b"'\"\\"]
packaged = pytest.mark.skipif(
    not importlib.util.find_spec("pyrwkv_tokenizer"),
    reason="pyrwkv-tokenizer, which ships the vocabulary, is not installed",
)


def line(i: int, token: bytes) -> str:
    try:
        literal = repr(token.decode())
    except UnicodeDecodeError:
        literal = repr(token)
    return f"{i} {literal} {len(token)}"


VOCABULARY = "".join(line(i, token) + "\n" for i, token in enumerate(TOKENS, 1))
SMALL = RWKVWorldTokenizer(VOCABULARY)


def longest_first(data: bytes) -> list[int]:
    """The definition: at each position, the longest token that the text goes on with."""
    found = []
    while data:
        best = max((token for token in TOKENS if data.startswith(token)), key=len)
        found.append(1 + TOKENS.index(best))
        data = data[len(best) :]
    return found


@given(text=st.text(alphabet="the né你好\n'\"\\🙂", max_size=30))
@example(text="thethenéthe")
def test_ids_are_those_of_the_definition(text):
    ids = SMALL.encode(text)
    assert ids.tolist() == longest_first(text.encode()) and ids.dtype == np.int32
    assert SMALL.decode(ids) == text
    assert SMALL.byte_counts(text).tolist() == [len(TOKENS[i - 1]) for i in ids]


@given(data=st.binary(max_size=20))
def test_any_bytes_come_back(data):
    ids = SMALL.encode(data)
    assert b"".join(TOKENS[i - 1] for i in ids) == data
    assert SMALL.decode(ids) == data.decode(errors="replace")


def test_ids_of_no_token_are_skipped():
    assert SMALL.vocab_size == len(TOKENS) + 1
    the = SMALL.token_id("the")
    assert SMALL.decode([0, the, 9999, -1, the]) == "thethe"
    assert SMALL.token_id("quantum") is None and SMALL.special == {0}


def test_json():
    again = tokenizer_from_json(SMALL.to_json())
    assert again == SMALL and again.to_json() == SMALL.to_json()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text[:-40], r"line 26\d: expected an id, a quoted token and its bytes"),
        (lambda text: text.replace("'the' 3", "'the' 4"), "line 257: expected"),
        (lambda text: text.replace("'the'", "__import__('os')"), "line 257: expected"),
        (lambda text: text.replace("'the'", "'a', 'the'"), "line 257: expected"),
        (lambda text: text.replace("257 ", "256 "), "line 257: id 256 or its token is there twice"),
        (lambda text: text.replace("257 'the' 3", "257 ' the' 4"), "line 258: id 258 or its token"),
        (lambda text: text.split("\n", 1)[1], "no token for the byte 0x00"),
        (lambda text: text.replace("257 ", "999999999 "), "line 257: id 999999999"),
        (lambda text: "hello\n", "line 1: expected"),
        (lambda text: "", "line 1: expected"),
    ],
)
def test_bad_vocabularies_get_one_line(change, says):
    with pytest.raises(UserError, match=says) as raised:
        RWKVWorldTokenizer(change(VOCABULARY))
    assert "\n" not in str(raised.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(rwkv_world.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'jaxmodels\[rwkv\]'"):
        read_packaged()


@functools.cache
def both():
    import pyrwkv_tokenizer

    return read_packaged(), pyrwkv_tokenizer.RWKVTokenizer()


@packaged
@given(text=st.text(max_size=60))
@example(text="User: Hi\n\nAssistant: Hello! 今天是美好的一天。 🙂🇨🇭 naïve\r\n  x = 1\n")
@settings(deadline=None, max_examples=200)
def test_equal_to_the_package(text):
    ours, theirs = both()
    assert ours.encode(text).tolist() == theirs.encode(text)
    assert ours.decode(ours.encode(text)) == text


@packaged
def test_the_packaged_vocabulary():
    ours, theirs = both()
    assert ours.vocab_size == theirs.tokenizer.vocab_size() == 65530
    assert ours.encode("\n\n").tolist() == [261]
