"""Tokenizers: exactness of bytes, vocabulary and byte accounting of words."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.data import ByteTokenizer, WordTokenizer, tokenizer_from_json
from jaxmodels.errors import UserError

BYTES = ByteTokenizer()


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_bytes_round_trip_exactly(data):
    tokens = BYTES.encode(data)
    assert tokens.dtype == np.uint8 and len(tokens) == len(data)
    assert BYTES.decode_bytes(tokens) == data
    assert BYTES.decode_bytes(tokens.astype(np.int32)) == data
    assert BYTES.decode(tokens) == data.decode("utf-8", errors="replace")


@given(st.text(max_size=60))
@settings(deadline=None)
def test_text_round_trips_through_bytes(text):
    assert BYTES.decode(BYTES.encode(text)) == text


def test_byte_vocabulary_is_exactly_256_and_ids_are_checked():
    assert BYTES.vocab_size == 256
    assert BYTES.encode(bytes(range(256))).tolist() == list(range(256))
    with pytest.raises(ValueError, match=r"0\.\.255"):
        BYTES.decode([256])


def test_words_are_ranked_by_frequency_then_alphabet():
    words = WordTokenizer.fit(["b a b, c", "a b d"], max_tokens=5)
    assert words.words == ("<pad>", "<unk>", "b", "a", ",")
    assert words.encode("a z, b").tolist() == [3, 1, 4, 2]
    assert words.decode([3, 1, 4]) == "a <unk> ,"
    assert WordTokenizer.fit(["x x y"], min_freq=2).words[2:] == ("x",)
    with pytest.raises(UserError, match="max_tokens"):
        WordTokenizer.fit(["x"], max_tokens=2)


@given(st.text(max_size=40), st.text(max_size=40))
@settings(deadline=None)
def test_word_byte_counts_add_up_to_the_text(fitted, text):
    words = WordTokenizer.fit([fitted])
    counts = words.byte_counts(text)
    assert len(counts) == len(words.encode(text))
    if len(counts):
        assert counts.sum() == len(text.encode()) and (counts > 0).all()
    again = tokenizer_from_json(words.to_json())
    assert again == words and (again.encode(text) == words.encode(text)).all()


def test_word_byte_counts_by_hand():
    words = WordTokenizer.fit(["x"])
    assert words.byte_counts(" né, \u20ac1 ").tolist() == [4, 1, 4, 2]  # " né" "," " €" "1 "


@pytest.mark.parametrize("text", ["", "[]", '{"kind": "bpe"}', '{"kind": "word", "words": ["a"]}'])
def test_a_bad_description_is_a_user_error(text):
    with pytest.raises(UserError) as error:
        tokenizer_from_json(text)
    assert "\n" not in str(error.value)


def test_byte_description():
    assert json.loads(BYTES.to_json()) == {"kind": "byte"}
    assert tokenizer_from_json(BYTES.to_json()) == BYTES
