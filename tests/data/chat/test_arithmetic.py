"""The corpus "arithmetic": right answers, every kind, and no operands of training held out."""

import doctest
from collections import Counter

import pytest

from jaxmodels.data.chat import arithmetic
from jaxmodels.data.chat.arithmetic import generate_arithmetic, kind_of
from jaxmodels.data.chat.conversation import split_conversations
from jaxmodels.data.chat.corpora import read_corpora
from jaxmodels.data.chat.labels import intent_of
from jaxmodels.errors import UserError
from jaxmodels.models.rnk.constraints import check_arithmetic


def operands(question):
    a, _, b = question.split()
    return frozenset((a, b))


def test_answers_are_right_and_kinds_equally_many():
    assert doctest.testmod(arithmetic).attempted
    found = generate_arithmetic(600, 3, 0)
    assert all(check_arithmetic(*c.turns) for c in found)
    assert {intent_of(*c.turns) for c in found} == {c.intent for c in found} == {"math"}
    kinds = Counter(kind_of(c.turns[0]) for c in found)
    assert kinds == {(sign, digits): 100 for sign in "+-" for digits in (1, 2, 3)}
    longer_first = sum(len(a) > len(b) for a, _, b in (c.turns[0].split() for c in found))
    longer_last = sum(len(a) < len(b) for a, _, b in (c.turns[0].split() for c in found))
    assert min(longer_first, longer_last) > 5
    assert any(c.turns[1].startswith("-") for c in found)


def test_a_seed_gives_the_same_questions_and_another_gives_others():
    first, other = (read_corpora(["arithmetic"], examples=40, seed=seed) for seed in (3, 4))
    assert first == generate_arithmetic(40, 3, 3) and len(first) == len(other) == 40
    assert len({c.turns[0] for c in first} & {c.turns[0] for c in other}) < 20


def test_no_held_out_question_has_the_operands_of_training_in_either_order():
    # With two digits and 4,000 questions nearly every pair occurs in both orders and operations.
    found = generate_arithmetic(4000, 2, 0)
    corpus = split_conversations(
        found, "x", context_turns=0, valid_fraction=0.2, test_fraction=0.2, seed=0
    )
    parts = [{operands(x.turns[-1]) for x in part} for part in (corpus.train, corpus.valid)]
    parts.append({operands(x.turns[-1]) for x in corpus.test})
    assert all(parts) and not parts[0] & parts[1] and not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    for part in (corpus.valid, corpus.test):
        assert {kind_of(x.turns[-1]) for x in part} == {(s, n) for s in "+-" for n in (1, 2)}
    assert sum(map(len, (corpus.train, corpus.valid, corpus.test))) == 4000


@pytest.mark.parametrize(
    ("count", "digits", "says"),
    [
        (5, 3, "data.examples: 'arithmetic' has 6 kinds of questions; give 6 or more, got 5"),
        (100, 0, r"data.digits: must be in 1\.\.15, got 0"),
        (100, 16, r"data.digits: must be in 1\.\.15, got 16"),
    ],
)
def test_a_corpus_that_cannot_be_is_refused(count, digits, says):
    with pytest.raises(UserError, match=says):
        generate_arithmetic(count, digits, 0)
