"""HRLM's tokenizers: exact vocabularies, round trips, what decoding leaves out."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers.answers import (
    LATIN_CHARSET,
    SEED_CHARSET,
    TAB_CHARSET,
    AnswerCharTokenizer,
    HybridTokenizer,
)
from jaxmodels.data.tokenizers.special import EOS, PAD, SEP, UNK
from jaxmodels.errors import UserError

SPANISH = "¿Dónde está el niño? ¡Adiós, señor Müller!"
TEXTS = ["the cat and the dog", "the cat  sat\n\ton the mat", "La niña y el gato."]


def test_vocabularies():
    """L-20: 79 characters from id 4, 83 in all; with the tab 84."""
    assert AnswerCharTokenizer(SEED_CHARSET).vocab_size == 83
    assert AnswerCharTokenizer(TAB_CHARSET).vocab_size == 84
    assert AnswerCharTokenizer(SEED_CHARSET).encode("a").tolist() == [4]


def test_the_seed_charset_loses_accents():
    """An answer with an accent could never be exact."""
    lost = AnswerCharTokenizer(SEED_CHARSET)
    assert UNK in lost.encode(SPANISH) and lost.decode(lost.encode(SPANISH)) != SPANISH
    kept = AnswerCharTokenizer()
    assert UNK not in kept.encode(SPANISH) and kept.decode(kept.encode(SPANISH)) == SPANISH


def test_decoding_stops_at_eos_and_skips_special_ids():
    t = AnswerCharTokenizer(SEED_CHARSET)
    a, b = t.encode("ab")
    assert t.decode([PAD, a, UNK, SEP, 999, b, EOS, a]) == "ab"


@pytest.fixture(scope="module")
def hybrid():
    return HybridTokenizer.fit(TEXTS, max_words=4)


def test_frequent_words_are_one_token(hybrid):
    assert hybrid.words == (" cat", " the", "the", " and")
    assert len(hybrid.encode("the cat")) == 2
    assert len(hybrid.encode("the cow")) == 1 + len(" cow")
    assert hybrid.vocab_size == AnswerCharTokenizer().vocab_size + 4


@given(st.text(LATIN_CHARSET, max_size=40))
def test_both_are_lossless_in_their_charset(text):
    hybrid = HybridTokenizer.fit(TEXTS, max_words=6)
    for tokenizer in (AnswerCharTokenizer(), hybrid):
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        counts = tokenizer.byte_counts(text)
        assert len(counts) == len(tokens) and counts.sum() == len(text.encode())


def test_json(hybrid):
    for tokenizer in (AnswerCharTokenizer("xyz"), hybrid):
        again = tokenizer_from_json(tokenizer.to_json())
        assert again == tokenizer
        np.testing.assert_array_equal(again.encode("xyz the cat"), tokenizer.encode("xyz the cat"))


def test_invalid_vocabularies():
    with pytest.raises(UserError, match="its characters distinct"):
        AnswerCharTokenizer("aa")
    with pytest.raises(UserError, match="two characters or more"):
        HybridTokenizer(("a",))
