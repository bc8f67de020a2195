"""Grid tokens: HRM's ids, nothing lost, nothing unknown let in."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmodels.data.tokenizers.fit import tokenizer_from_json
from jaxmodels.data.tokenizers.grid import MAZE, SUDOKU4, SUDOKU9, GridTokenizer, IdTokenizer
from jaxmodels.data.tokenizers.special import PAD
from jaxmodels.errors import UserError

KINDS = [SUDOKU4, SUDOKU9, MAZE]


@pytest.mark.parametrize(("symbols", "vocab_size"), [(SUDOKU4, 6), (SUDOKU9, 11), (MAZE, 6)])
def test_ids_equal_those_of_hrm(symbols, vocab_size):
    """An open cell is 1 and digit d is d + 1; wall, free, start, goal, path are 1 to 5."""
    tokens = GridTokenizer(symbols)
    assert tokens.vocab_size == vocab_size
    ids = tokens.encode(symbols)
    assert ids.dtype == np.int32 and ids.tolist() == list(range(1, vocab_size))
    assert PAD not in ids


def test_sudoku_and_maze_by_hand():
    assert GridTokenizer(SUDOKU9).encode(".1.9").tolist() == [1, 2, 1, 10]
    assert GridTokenizer(SUDOKU4).encode("4..1").tolist() == [5, 1, 1, 2]
    assert GridTokenizer(MAZE).encode("#S o G").tolist() == [1, 3, 2, 5, 2, 4]


@pytest.mark.parametrize("symbols", KINDS)
@given(data=st.data())
def test_text_round_trips(symbols, data):
    text = data.draw(st.text(symbols, max_size=30))
    tokens = GridTokenizer(symbols)
    ids = tokens.encode(text)
    assert len(ids) == len(text) and tokens.decode(ids) == text
    np.testing.assert_array_equal(tokens.encode(text.encode()), ids)
    counts = tokens.byte_counts(text)
    assert counts.dtype == np.int32 and counts.tolist() == [1] * len(text)


def test_missing_cells_are_not_symbols():
    """A model may answer PAD or an id beyond the last."""
    tokens = GridTokenizer(SUDOKU4)
    assert tokens.decode([PAD, 1, 5, 6, -1]) == "_.4??"
    assert tokens.encode("_.4_").tolist() == [PAD, 1, 5, PAD]
    assert tokens.decode(np.array([[2, 3], [4, 5]])) == "1234"


@pytest.mark.parametrize(
    ("symbols", "text", "wrong"), [(SUDOKU4, "12.5", "5"), (SUDOKU9, "1o", "o"), (MAZE, "#.S", ".")]
)
def test_an_unknown_symbol_is_named(symbols, text, wrong):
    with pytest.raises(UserError) as refused:
        GridTokenizer(symbols).encode(text)
    assert repr(wrong) in str(refused.value) and repr(symbols) in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("symbols", KINDS)
def test_json(symbols):
    tokens = GridTokenizer(symbols)
    assert json.loads(tokens.to_json()) == {"kind": "grid", "symbols": symbols}
    assert tokenizer_from_json(tokens.to_json()) == tokens


@pytest.mark.parametrize(
    "fields",
    [{}] + [{"symbols": symbols} for symbols in ("", ".11", 5, ["a", "b"], "_12")],
)
def test_invalid_descriptions_are_refused(fields):
    with pytest.raises(UserError, match="not a tokenizer description"):
        tokenizer_from_json(json.dumps({"kind": "grid"} | fields))


def test_ids_are_words():
    tokenizer = IdTokenizer(13)
    again = tokenizer_from_json(tokenizer.to_json())
    assert again == tokenizer and again.vocab_size == 13
    assert tokenizer.encode(" 3 0\n12 ").tolist() == [3, 0, 12]
    assert tokenizer.decode(np.array([3, 0, 12])) == "3 0 12"
    assert tokenizer.byte_counts("3 0 12").tolist() == [1, 1, 1]
    stream = tokenizer.stream()
    assert "".join(stream.push(i) for i in (3, 0, 12)) + stream.finish() == "3 0 12"


@pytest.mark.parametrize("text", ["13", "-1", "a", "1.5", "\u0663", "1" * 5000])
def test_other_words_are_refused(text):
    with pytest.raises(UserError, match="write numbers from 0 to 12"):
        IdTokenizer(13).encode(text)
    with pytest.raises(UserError, match="positive integer"):
        IdTokenizer(0)
