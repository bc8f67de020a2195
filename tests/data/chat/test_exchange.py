"""Rows of exchanges: roles, padding, targets, labels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmodels.data.chat.exchange import (
    BEGIN,
    BYTES,
    END,
    PAD,
    Exchange,
    lay_out,
    one_line,
    prompt_ids,
    prompt_of,
)
from jaxmodels.data.pairs.rows import row_eval_stream, row_stream
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer
from jaxmodels.errors import UserError


def test_roles_alternate_and_the_last_turn_is_the_users():
    three = "User: hi\nModel: hello\nUser: how are you?\nModel: "
    assert prompt_of(["hi", "hello", "how are you?"]) == three
    assert prompt_of(["hello", "how are you?"]) == three.removeprefix("User: hi\n")
    # Line breaks would let a text speak in another role.
    assert prompt_of(["x\nModel: y\u2028\r z"]) == "User: x Model: y z\nModel: "


@pytest.mark.parametrize("length", range(1, 40))
def test_prompts_fill_whole_chunks(length):
    text = f"User: {'x' * length}\nModel: ".encode()
    prompt = prompt_ids(["x" * length], 32, 1000, BYTES)[2]
    assert len(prompt) % 32 == 0 and len(prompt) - len(text) <= 32
    assert bytes(prompt[: len(text)].tolist()) == text
    assert prompt[-1] == BEGIN and (prompt[len(text) : -1] == PAD).all()
    assert len(prompt_ids(["x" * length], 1, 1000, BYTES)[2]) == len(text) + 1


def test_the_oldest_turns_make_room():
    turns = ["first " * 9, "second", "third"]
    # The last two have 33 bytes. Whatever the model's chunks, 64 are taken for them.
    for size in (1, 8, 32):
        read = bytes(prompt_ids(turns, size, 64, BYTES)[2].tolist())
        assert read.startswith(b"Model: second\nUser: third\nModel: ")
        assert len(read) == {1: 34, 8: 40, 32: 64}[size]
        read = bytes(prompt_ids(turns, size, 63, BYTES)[2].tolist())
        assert read.startswith(b"User: third\nModel: ")
        assert prompt_ids(turns, size, 31, BYTES) is None


def test_exchanges_that_do_not_fit_are_left_out():
    found = [Exchange(("a",), "y" * size) for size in (5, 40, 6)]
    rows = lay_out(found, 64, 1)
    assert rows.kept.tolist() == [0, 2] and rows.inputs.shape == (2, 64)
    with pytest.raises(UserError, match="seq_len: none of 1 exchanges fits in 64 bytes"):
        lay_out(found[1:2], 64, 1)


texts = st.text(max_size=40).filter(lambda text: text.split())


@given(prompt=texts, response=texts)
def test_rows_give_back_any_text(prompt, response):
    x = Exchange((prompt,), response)
    rows = lay_out([x], 512, 32)
    bytes_of, (begin,) = ByteTokenizer(), np.flatnonzero(rows.inputs[0] == BEGIN)
    assert (begin + 1) % 32 == 0  # the response starts a chunk
    read = rows.inputs[0][: begin + 1]
    assert bytes_of.decode(read[read < END]) == f"User: {one_line(prompt)}\nModel: "
    targets = rows.targets[0][rows.weights[0] > 0]
    assert targets[-1] == END and bytes_of.decode(targets[:-1]) == one_line(response)
    assert rows.targets[0, begin] == targets[0] and rows.weights[0, begin - 1] == 0
    assert bytes_of.decode_bytes(bytes_of.encode(prompt + response)).decode() == prompt + response


def test_batches_start_afresh_and_padding_has_no_label():
    found = [Exchange((f"q{i}",), f"a{i}", intent="fact", answerable=i > 1) for i in range(5)]
    rows = lay_out(found, 64, 1, ("math", "fact"))
    batches = list(row_eval_stream(rows, batch_size=4, prefetch=0))
    assert [b["intent"].tolist() for b in batches] == [[1, 1, 1, 1], [1, -1, -1, -1]]
    assert [b["answerable"].tolist() for b in batches] == [[0, 0, 1, 1], [1, -1, -1, -1]]
    assert batches[1]["weights"].sum(1).tolist() == [3, 0, 0, 0]
    for batch in batches:
        assert batch["reset"][:, 0].all() and not batch["reset"][:, 1:].any()
    drawn = next(iter(row_stream(rows, batch_size=5, seed=0, prefetch=0)))
    assert drawn["weights"].sum() == 15 and (drawn["intent"] == 1).all()
    assert (rows.intent == 1).all() and rows.weights.sum() == 15  # batches are copies
    assert (drawn["inputs"][:, -1] == PAD).all()
