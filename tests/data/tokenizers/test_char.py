"""The character tokenizer: its reserved block, unknown characters, byte counts."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxmodels.data import tokenizer_from_json
from jaxmodels.data.tokenizers.char import CONTROL, RESERVED, UNK, CharTokenizer

# The 65 characters of tinyshakespeare.
SHAKESPEARE = "\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def test_ids_below_32_are_reserved_and_shakespeare_has_97():
    """G-19."""
    chars = CharTokenizer.fit([SHAKESPEARE[::-1], SHAKESPEARE])
    assert chars.characters == SHAKESPEARE and chars.vocab_size == 97 == RESERVED + 65
    assert chars.encode(SHAKESPEARE).tolist() == list(range(32, 97))
    control = "".join(f"<|{name}|>" for name in CONTROL)
    assert chars.encode(control).tolist() == list(range(8))
    assert chars.encode("<|user|>a<|nobody|>").tolist()[:2] == [5, chars.encode("a")[0]]
    assert len(chars.encode("<|nobody|>")) == 10  # only named tokens are tokens


def test_control_tokens_of_the_text_are_no_characters():
    chars = CharTokenizer.fit(["ab<|endofturn|>", b"c"])
    assert chars.characters == "abc"
    assert chars.encode("b<|endofturn|>c").tolist() == [33, 7, 34]


def test_unknown_characters_become_unk():
    chars = CharTokenizer.fit(["ab"])
    assert chars.encode("azb\u20ac").tolist() == [32, UNK, 33, UNK] and UNK == 1
    assert chars.unknown("azb\u20ac") == ["z", "\u20ac"]
    assert chars.decode([32, UNK, 33, 5, 31]) == "a<|unk|>b<|user|><|31|>"


@given(st.text(max_size=40))
@settings(deadline=None)
def test_text_round_trips_and_byte_counts_add_up(text):
    chars = CharTokenizer.fit([text])
    ids, counts = chars.encode(text), chars.byte_counts(text)
    assert chars.decode(ids) == text and ids.dtype == np.int32
    assert len(counts) == len(ids) and counts.sum() == len(text.encode())
    again = tokenizer_from_json(chars.to_json())
    assert again == chars and (again.encode(text) == ids).all()


def test_byte_counts_by_hand():
    chars = CharTokenizer.fit(["a"])
    assert chars.byte_counts("a\u00e9\u20ac<|bos|>z").tolist() == [1, 2, 3, 7, 1]
