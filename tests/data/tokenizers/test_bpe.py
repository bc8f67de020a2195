"""Byte-pair encoding: lossless, reproducible, and special ids are never text."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers.bpe import BPETokenizer
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP, SPECIALS, UNK
from jaxmodels.errors import UserError

TEXTS = ["La niña come una manzana.", "El niño come pan.", "¿Qué come la niña? <eos>"] * 3


@pytest.fixture(scope="module")
def bpe():
    return BPETokenizer.fit(TEXTS, vocab_size=300)


def test_frequent_pieces_are_one_token(bpe):
    assert 260 < bpe.vocab_size <= 300
    assert len(bpe.encode(" come")) == 1
    assert len(bpe.encode(TEXTS[0])) < len(TEXTS[0].encode()) / 2
    assert len(bpe.encode("zzqz")) == 4


@given(st.text(max_size=40))
@settings(deadline=None)
def test_any_text_round_trips(bpe, text):
    tokens = bpe.encode(text)
    assert tokens.dtype == np.int32 and (tokens >= len(SPECIALS)).all()
    assert (tokens < bpe.vocab_size).all()
    assert bpe.decode(tokens) == text
    counts = bpe.byte_counts(text)
    assert len(counts) == len(tokens) and counts.sum() == len(text.encode())
    np.testing.assert_array_equal(bpe.encode(text.encode()), tokens)


@pytest.mark.parametrize("mark", SPECIALS)
def test_special_tokens_spelled_in_a_text_are_text(bpe, mark):
    """Or a question could end a row. The fitted texts hold "<eos>" too."""
    tokens = bpe.encode(f"a{mark} b")
    assert (tokens >= len(SPECIALS)).all() and bpe.decode(tokens) == f"a{mark} b"


def test_decoding_stops_at_eos_and_skips_special_ids(bpe):
    a, b = bpe.encode("a")[0], bpe.encode("b")[0]
    assert bpe.decode([PAD, a, UNK, SEP, 9999, b, EOS, a]) == "ab"
    assert bpe.decode([]) == "" and len(bpe.encode("")) == 0


def test_fitting_is_deterministic(bpe):
    again = BPETokenizer.fit(iter(TEXTS), vocab_size=300)
    assert again == bpe and again.to_json() == bpe.to_json()


def test_json(bpe):
    again = tokenizer_from_json(bpe.to_json())
    assert again == bpe and again.vocab_size == bpe.vocab_size
    np.testing.assert_array_equal(again.encode(TEXTS[0]), bpe.encode(TEXTS[0]))


def test_invalid_arguments(monkeypatch):
    with pytest.raises(UserError, match="BPE needs 260 or more"):
        BPETokenizer.fit(TEXTS, vocab_size=259)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'jaxmodels\[text\]'"):
        BPETokenizer.fit(TEXTS, vocab_size=300)
