"""Decoding token by token: pieces joined == the text of all ids, for every tokenizer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer, HybridTokenizer
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer, WordTokenizer
from jaxmodels.data.tokenizers.char import CharTokenizer
from jaxmodels.data.tokenizers.grid import SUDOKU9, GridTokenizer
from jaxmodels.data.tokenizers.marked import MarkedTokenizer
from jaxmodels.data.tokenizers.stream import LONGEST
from tests.data.tokenizers.worlds import FAMILIES, TEXTS, family

OWN = {
    "byte": ByteTokenizer,
    "char": lambda: CharTokenizer.fit(TEXTS),
    "word": lambda: WordTokenizer.fit(TEXTS),
    "answer_char": AnswerCharTokenizer,
    "hybrid": lambda: HybridTokenizer.fit(TEXTS, max_words=20),
    "bpe": lambda: BPETokenizer.fit(TEXTS, vocab_size=300),
    "grid": lambda: GridTokenizer(SUDOKU9),
    "marked byte": lambda: MarkedTokenizer(ByteTokenizer()),
    "marked bpe": lambda: MarkedTokenizer(BPETokenizer.fit(TEXTS, vocab_size=300)),
}
EVERY = [*OWN, *FAMILIES]


@functools.cache
def tokenizer_of(name):
    return OWN[name]() if name in OWN else tokenizer_from_json(family(name).to_str())


def streamed(tokenizer, ids, context=()) -> str:
    stream = tokenizer.stream(context)
    pieces = [stream.push(token) for token in ids]
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in tokenizer.decode(ids)
    return "".join(pieces) + stream.finish()


@pytest.mark.parametrize("name", EVERY)
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_pieces_joined_are_the_text(name, data):
    tokenizer = tokenizer_of(name)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", EVERY)
@given(text=st.text(max_size=20))
@example(text="naïve é 你好 🙂  two <|im_end|> the\n fox")
@settings(deadline=None, max_examples=30)
def test_pieces_of_a_text_are_it(name, text):
    tokenizer = tokenizer_of(name)
    if name == "grid":
        text = "12..9"
    ids = tokenizer.encode(text)
    assert streamed(tokenizer, ids) == tokenizer.decode(ids)
    stream = tokenizer.stream()
    assert stream.push(ids) + stream.finish() == tokenizer.decode(ids)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "grid"])
@pytest.mark.parametrize("cut", [1, 3, 7])
def test_after_a_context_the_text_goes_on(name, cut):
    tokenizer = tokenizer_of(name)
    ids = np.asarray(tokenizer.encode("the fox the dog the lazy the a the"))
    before, after = ids[:-cut], ids[-cut:]
    whole, start = tokenizer.decode(ids), tokenizer.decode(before)
    assert streamed(tokenizer, after, before) == whole[len(start) :]


def test_a_word_after_a_prompt_keeps_its_space():
    tokenizer = tokenizer_of("byte_fallback")
    the = tokenizer.token_id("▁the")
    assert streamed(tokenizer, [the]) == "the"
    assert streamed(tokenizer, [the], [the]) == " the"
    for count in (1, 2 * LONGEST):
        assert streamed(tokenizer, [the, *[tokenizer.token_id("</s>")] * count, the]) == "the the"


def test_bytes_that_are_no_text_leave_the_others():
    """The library gives up all of a run of bytes, and its own stream raises an error."""
    tokenizer = tokenizer_of("byte_fallback")
    ids = [tokenizer.token_id(f"<0x{byte:02X}>") for byte in b"\xc3\xa9\xff\xc3\xa9"]
    assert tokenizer.decode(ids) == streamed(tokenizer, ids) == "é\ufffdé"
    assert family("byte_fallback").decode(ids) == "\ufffd" * 5


@pytest.mark.parametrize("name", ["byte", "bpe", "byte_level", "byte_fallback"])
def test_no_piece_has_part_of_a_character(name):
    tokenizer = tokenizer_of(name)
    ids = tokenizer.encode("🙂你é")
    stream = tokenizer.stream()
    pieces = [stream.push(token) for token in ids]
    assert len(ids) > 5 and [p for p in pieces if p] == ["🙂", "你", "é"]
    assert stream.finish() == ""


def test_a_cut_character_is_told_at_the_end():
    for name in ("byte", "bpe", "byte_level", "byte_fallback"):
        tokenizer = tokenizer_of(name)
        stream, ids = tokenizer.stream(), tokenizer.encode("a🙂")[:-1]
        assert stream.push(ids) == "a" and stream.finish() == "\ufffd", name


def test_nothing_is_held_back_for_ever():
    tokenizer = tokenizer_of("byte_fallback")
    stream, broken = tokenizer.stream(), tokenizer.token_id("\ufffd")
    assert stream.push([broken] * 3 * LONGEST).count("\ufffd") >= 2 * LONGEST
