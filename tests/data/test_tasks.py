"""Generated questions: what they say is right, and unseen means what it says."""

import re

import pytest

from jaxmodels.data.pairs.rows import Pair
from jaxmodels.data.tasks import TASKS, make_task, split_by_combination, split_by_question, words
from jaxmodels.errors import UserError

MADE = [name for name in TASKS if name != "seed_translation"]


@pytest.fixture(scope="module")
def pairs():
    return {name: make_task(name, 1000, seed=0) for name in TASKS}


@pytest.mark.parametrize("name", MADE)
def test_pairs_are_distinct_and_of_moderate_length(pairs, name):
    assert len({pair.question for pair in pairs[name]}) == 1000
    limit = (130, 40) if name == "summary" else (80, 48)
    assert max(len(pair.question) for pair in pairs[name]) <= limit[0]
    assert max(len(pair.answer) for pair in pairs[name]) <= limit[1]
    assert all(pair.task == name and pair.combination for pair in pairs[name])


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("seed", [0, 1])
def test_unseen_combinations_consist_of_trained_values(pairs, name, seed):
    train, unseen = split_by_combination(pairs[name], 0.2, seed)
    assert len(train) + len(unseen) == 1000
    held, kept = ({p.combination for p in part} for part in (unseen, train))
    assert not held & kept
    assert 0.15 <= len(held) / len(held | kept) <= 0.2005
    assert not {p.question for p in train} & {p.question for p in unseen}
    shown = {(i, value) for p in train for i, value in enumerate(p.combination)}
    assert {(i, value) for p in unseen for i, value in enumerate(p.combination)} <= shown


@pytest.mark.parametrize("name", ["translation", "json_sentence", "grammar", "extraction"])
def test_an_unseen_question_has_an_unseen_answer(pairs, name):
    """Not so for facts and summaries, whose answers are sentences or names that training shows."""
    train, unseen = split_by_combination(pairs[name], 0.2, 0)
    assert not {p.answer for p in train} & {p.answer for p in unseen}


def test_a_unique_value_stays_in_training():
    rare = [Pair("q1", "a", "t", ("x", "1")), Pair("q2", "a", "t", ("y", "1"))]
    train, unseen = split_by_combination(rare, 0.9, 0)
    assert train == rare and unseen == []


def test_split_by_question_keeps_all_answers_together():
    many = [Pair(f"q{i % 10}", str(i)) for i in range(30)]
    train, unseen = split_by_question(many, 0.2, 0)
    assert len(unseen) == 6 and len({p.question for p in unseen}) == 2
    assert not {p.question for p in train} & {p.question for p in unseen}


def test_spanish_agrees_in_gender_and_number(pairs):
    nouns = {}
    for _, _, singular, plural, gender in words.NOUNS:
        nouns[singular], nouns[plural] = (gender, False), (gender, True)
    forms = {}
    for _, masculine, feminine in words.ADJECTIVES:
        for gender, word in (("m", masculine), ("f", feminine)):
            forms.setdefault(word, set()).add((gender, False))
            plural = word + ("es" if word[-1] == "l" else "s")
            forms.setdefault(plural, set()).add((gender, True))
    articles = {"el": ("m", False), "la": ("f", False), "los": ("m", True), "las": ("f", True)}
    checked = 0
    for pair in pairs["translation"]:
        said = re.sub(r" en (el|la) \w+\.", ".", pair.answer.lower()).strip(".").split()
        (at,) = (i for i, word in enumerate(said) if word in nouns)
        agrees = nouns[said[at]]
        assert articles[said[at - 1]] == agrees
        others = [word for word in said if word in forms]
        assert others and all(agrees in forms[word] for word in others)
        assert ("son" in said or "están" in said) <= agrees[1]
        checked += len(others)
    assert checked > 1000


def test_answers_follow_from_their_questions(pairs):
    for pair in pairs["json_sentence"]:
        fields = dict(re.findall(r'"(\w+)":"?(\w+)', pair.question))
        expected = f"{fields['name']}, {fields['age']}, is a {fields['job']} in {fields['city']}."
        assert pair.answer == expected
    facts = {
        (f[0], kind): f[1 + i]
        for f in words.FACTS
        for i, kind in enumerate(("capital", "continent", "currency", "language"))
    }
    for pair in pairs["factual"]:
        kind, country = pair.combination[1].split(" of ", 1)
        assert country in pair.question and facts[country, kind] == pair.answer
    for pair in pairs["grammar"]:
        subject, base, _, time = pair.combination
        forms = next(forms for forms in words.ACTIONS if forms[0] == base)
        third = subject.split()[-1] in ("She", "He", "friend", "teacher", "brother")
        right = forms[2] if time in ("yesterday", "last week") else forms[1 if third else 0]
        assert pair.answer.startswith(f"{subject} {right} to the ")
        assert pair.answer.endswith(f" {time}.")
    for pair in pairs["extraction"]:
        name, date = pair.answer.split("; ")
        assert name in pair.question and date in pair.question
        assert re.fullmatch(r"\d{1,2} [A-Z][a-z]+ \d{4}", date)
    for pair in pairs["summary"]:
        topic, text = re.fullmatch(r"About (\w+): (.*)", pair.question).groups()
        told = [sentence for sentence in re.findall(r"[^.]+\.", text) if topic in sentence.lower()]
        assert [told[0].strip()] == [sentence.strip() for sentence in told] == [pair.answer]


def test_seed_translation_is_five_pairs_two_hundred_times(pairs):
    assert len({(p.question, p.answer) for p in pairs["seed_translation"]}) == 5
    train, unseen = split_by_combination(pairs["seed_translation"], 0.2, 0)
    assert len(train) == 1000 and not unseen  # nothing of it can be held out


def test_invalid_arguments():
    with pytest.raises(UserError, match="unknown task 'x'"):
        make_task("x", 1, 0)
    with pytest.raises(UserError, match="'factual' has 1,600 pairs, requested 9,999"):
        make_task("factual", 9999, 0)
    with pytest.raises(UserError, match="has no slot values"):
        split_by_combination([Pair("a", "b")], 0.1, 0)
