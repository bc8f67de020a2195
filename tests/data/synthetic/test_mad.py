"""Tasks of MAD and of arithmetic: who reads the tokens alone finds every label, and nobody else."""

import itertools

import numpy as np
import pytest

from jaxmodels.data.synthetic import MAD, TASKS, make_task
from jaxmodels.data.synthetic.arithmetic import Adding, ModularArithmetic
from jaxmodels.data.synthetic.mad import (
    Compression,
    FuzzyRecall,
    InContextRecall,
    Memorization,
    NoisyRecall,
)
from jaxmodels.errors import UserError

SAMPLES = [
    InContextRecall(),
    InContextRecall(seq_len=9, symbols=3, pairs=2),
    NoisyRecall(),
    NoisyRecall(noise=0.6, noise_symbols=3),
    FuzzyRecall(),
    FuzzyRecall(seq_len=65, symbols=4, pairs=3, key_tokens=2),
    Memorization(),
    Memorization(seq_len=7, keys=5, table_seed=3),
    Compression(),
    Compression(seq_len=5, symbols=3),
    ModularArithmetic(),
    ModularArithmetic(seq_len=8, modulus=3),
    Adding(),
    Adding(seq_len=3, levels=4),
]


def solve_recall(task, tokens):
    """Cut the row at every first token of a key, and look every key up."""
    kind = ["kvn"[min(token // task.symbols, 2)] for token in tokens]
    answers, seen, place = {}, {}, 0
    while place < len(tokens):
        if kind[place] == "n":
            place += 1
            continue
        middle = next((i for i in range(place, len(tokens)) if kind[i] != "k"), len(tokens))
        end = next((i for i in range(middle, len(tokens)) if kind[i] != "v"), len(tokens))
        key, value = tuple(tokens[place:middle]), tokens[middle:end]
        if key in seen:  # the last value of a row may be cut, and its next token is not shown
            whole = seen[key]
            cut = value if end == len(tokens) else whole
            for i in range(len(whole)):
                if middle - 1 + i < len(tokens) and i <= len(cut):
                    answers[middle - 1 + i] = whole[i]
        elif end < len(tokens):
            seen[key] = value
        place = end
    return answers


def solve_memorization(task, tokens):
    facts = np.random.default_rng(task.table_seed).permutation(task.keys) + task.keys
    return {i: facts[tokens[i - 1]] for i, token in enumerate(tokens) if token == 2 * task.keys}


def solve_compression(task, tokens):
    mark = tokens.index(task.symbols)
    return {i: tokens[tokens[i] - task.symbols - 1] for i in range(mark + 1, len(tokens))}


def solve_arithmetic(task, tokens):
    result, answers = tokens[0], {}
    for place in range(2, len(tokens), 2):
        number = tokens[place]
        sign = "+-*"[tokens[place - 1] - task.modulus]
        result = eval(f"({result}) {sign} {number}") % task.modulus
        answers[place] = result
    return answers


def solve_adding(task, tokens):
    marked = [t - task.levels for t in tokens if task.levels <= t < 2 * task.levels]
    assert len(marked) == 2
    return {len(tokens) - 1: sum(marked)}


SOLVERS = {
    InContextRecall: solve_recall,
    NoisyRecall: solve_recall,
    FuzzyRecall: solve_recall,
    Memorization: solve_memorization,
    Compression: solve_compression,
    ModularArithmetic: solve_arithmetic,
    Adding: solve_adding,
}


@pytest.mark.parametrize("task", SAMPLES, ids=str)
def test_labels_equal_the_solution(task):
    batch = task.batch(seed=3, index=1, batch_size=50)
    for name in ("inputs", "targets"):
        assert batch[name].min() >= 0 and batch[name].max() < task.vocab_size
    for tokens, targets, weights in zip(
        *(batch[name].tolist() for name in ("inputs", "targets", "weights")), strict=True
    ):
        answers = SOLVERS[type(task)](task, tokens)
        # Whether a key of several tokens ends with the row is not told.
        places = range(task.seq_len - isinstance(task, FuzzyRecall))
        assert [float(place in answers) for place in places] == weights[: len(places)]
        assert [answers.get(place, 0) for place in places] == targets[: len(places)]


def test_what_distinguishes_the_recalls():
    """Noise is a fifth of the pairs; fuzzy keys have one to three tokens; most pairs come again."""
    noisy, fuzzy = NoisyRecall(seq_len=512), FuzzyRecall()
    inputs = noisy.batch(0, 0, 200)["inputs"]
    assert abs((inputs >= 16).mean() - 0.2) < 0.01
    assert np.unique(inputs).tolist() == list(range(noisy.vocab_size))
    runs = set()
    for tokens in fuzzy.batch(0, 0, 50)["inputs"]:
        kinds = [(key, len(list(run))) for key, run in itertools.groupby(tokens < 8)]
        runs |= set(kinds[:-1])
    assert runs == {(is_key, size) for is_key in (True, False) for size in (1, 2, 3)}
    assert InContextRecall().batch(0, 0, 200)["weights"].mean() > 0.3


def test_facts_are_the_same_in_every_row_and_split():
    task, facts = Memorization(keys=8), {}
    for seed in (0, 2**32 + 1):
        batch = task.batch(seed, 0, 64)
        for key, value in zip(
            batch["inputs"][:, :-1:2].flat, batch["targets"][:, 1::2].flat, strict=True
        ):
            assert facts.setdefault(key, value) == value
    assert sorted(facts.values()) == list(range(8, 16))
    other = Memorization(keys=8, table_seed=1).batch(0, 0, 64)
    assert any(
        facts[row[0]] != row[1]
        for row in zip(other["inputs"][:, 0], other["targets"][:, 1], strict=True)
    )


def test_numbers_of_the_adding_problem():
    """P-11: `values` is the label over the largest sum, and varies as `variance` says."""
    task = Adding(levels=20)
    batch = task.batch(0, 0, 20_000)
    values = batch["values"][:, -1, 0]
    assert batch["values"].dtype == np.float32 and not batch["values"][:, :-1].any()
    np.testing.assert_allclose(values * 38, batch["targets"][:, -1], atol=1e-4)
    assert values.var() == pytest.approx(task.variance, rel=0.03)
    assert 0.0 <= values.min() and values.max() <= 1.0


@pytest.mark.parametrize("task", SAMPLES, ids=str)
def test_chance_is_the_accuracy_of_the_best_blind_guess(task):
    batch = task.batch(1, 0, 4000)
    asked = batch["weights"] > 0
    answers = batch["targets"][asked]
    found = np.bincount(answers).max() / answers.size
    if isinstance(task, ModularArithmetic):  # each place has a guess of its own
        columns = batch["targets"][:, asked[0]].T
        found = np.mean([np.bincount(column).max() / 4000 for column in columns])
    assert task.chance - 0.01 < found < task.chance + 4 * (task.chance / 4000) ** 0.5


def test_a_task_by_name_and_fields():
    task = make_task("fuzzy_recall", 40, {"pairs": 3, "noise": 0})
    assert (type(task), task.seq_len, task.pairs) == (FuzzyRecall, 40, 3)
    assert all(name in TASKS for name in MAD) and len(MAD) == 6
    assert make_task("relations", 37, {}).seq_len == 37


@pytest.mark.parametrize(
    ("name", "length", "fields", "message"),
    [
        ("fuzzy", 40, {}, "unknown task 'fuzzy'; did you mean 'fuzzy_recall'?"),
        ("mqar", 40, {"pair": 3}, "mqar has no field 'pair'"),
        ("mqar", 40, {"pairs": 3.0}, "mqar: pairs must be like its default 8, got 3.0"),
        ("relations", 40, {}, "its rows have 37 tokens, seq_len is 40"),
        ("compression", 40, {}, "seq_len must be odd"),
        ("noisy_recall", 40, {"noise": 1.0}, "noise must be in [0, 1)"),
        ("fuzzy_recall", 40, {"symbols": 2}, "3 distinct tokens needs as many symbols, got 2"),
        ("fuzzy_recall", 11, {}, "takes 12 tokens, seq_len is 11"),
        ("memorization", 8, {"keys": 1}, "keys must be an integer >= 2"),
        ("adding", 2, {}, "seq_len must be an integer >= 3"),
    ],
)
def test_invalid_tasks_are_named(name, length, fields, message):
    with pytest.raises(UserError) as caught:
        make_task(name, length, fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)
