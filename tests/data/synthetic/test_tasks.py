"""Synthetic tasks: a solver that reads tokens alone finds every label, and none is given away."""

import itertools

import numpy as np
import pytest

from jaxmodels.data.synthetic import MQAR, S5, TASKS, InductionHeads, Parity, Passkey, rows
from jaxmodels.data.synthetic import SelectiveCopying as Copying
from jaxmodels.errors import UserError

PERMUTATIONS = list(itertools.permutations(range(5)))
SAMPLES = [
    MQAR(),
    MQAR(seq_len=20, vocab_size=12, pairs=5, power=2.0),
    Copying(),
    Copying(seq_len=9, values=3, copies=4),
    InductionHeads(),
    InductionHeads(seq_len=4, symbols=5),
    Passkey(),
    Passkey(seq_len=30, digits=3, words=1, distance=20),
    Parity(seq_len=40),
    S5(),
    S5(seq_len=9, moves="all"),
    S5(moves="generators"),
]


def solve_mqar(task, tokens):
    """Pairs at the start; a key later on is a question."""
    paired = {}
    for place in range(0, 2 * task.pairs, 2):
        paired[tokens[place]] = tokens[place + 1]
    later = range(2 * task.pairs, task.seq_len)
    return {place: paired[tokens[place]] for place in later if tokens[place] != 0}


def solve_copying(task, tokens):
    questions = [place for place, token in enumerate(tokens) if token == 1]
    return dict(zip(questions, [token for token in tokens if token > 1], strict=True))


def solve_induction(task, tokens):
    first = tokens.index(0)
    assert tokens.index(0, first + 1) == task.seq_len - 1
    return {task.seq_len - 1: tokens[first + 1]}


def solve_passkey(task, tokens):
    mark = tokens.index(10)
    questions = [place for place, token in enumerate(tokens) if token == 11]
    if task.distance is not None:
        assert questions[0] - (mark + task.digits + 1) == task.distance
    return dict(zip(questions, tokens[mark + 1 : mark + 1 + task.digits], strict=True))


def solve_parity(task, tokens):
    return {place: sum(tokens[: place + 1]) % 2 for place in range(task.seq_len)}


def solve_s5(task, tokens):
    """Things are moved one permutation after the other."""
    where, answers = list(range(5)), {}
    for place, token in enumerate(tokens):
        where = [PERMUTATIONS[token][x] for x in where]
        answers[place] = PERMUTATIONS.index(tuple(where))
    return answers


SOLVERS = {
    MQAR: solve_mqar,
    Copying: solve_copying,
    InductionHeads: solve_induction,
    Passkey: solve_passkey,
    Parity: solve_parity,
    S5: solve_s5,
}


@pytest.mark.parametrize("task", SAMPLES, ids=str)
def test_labels_equal_the_solution(task):
    batch = task.batch(seed=3, index=1, batch_size=20)
    for tokens, targets, weights in zip(
        *(batch[name].tolist() for name in ("inputs", "targets", "weights")), strict=True
    ):
        answers = SOLVERS[type(task)](task, tokens)
        assert answers
        assert [answers.get(place, 0) for place in range(task.seq_len)] == targets
        assert [float(place in answers) for place in range(task.seq_len)] == weights


@pytest.mark.parametrize("task", SAMPLES, ids=str)
def test_batches_follow_the_model_contract(task):
    batch = task.batch(seed=0, index=0, batch_size=7)
    assert {name: (x.dtype, x.shape) for name, x in batch.items()} == {
        "inputs": (np.int32, (7, task.seq_len)),
        "targets": (np.int32, (7, task.seq_len)),
        "weights": (np.float32, (7, task.seq_len)),
        "reset": (np.bool_, (7, task.seq_len)),
    }
    assert batch["reset"][:, 0].all() and not batch["reset"][:, 1:].any()
    for name in ("inputs", "targets"):
        assert batch[name].min() >= 0 and batch[name].max() < task.vocab_size


@pytest.mark.parametrize("name", TASKS)
def test_rows_are_a_function_of_seed_and_index(name):
    task = TASKS[name]()
    first, again = task.batch(5, 2, 16), task.batch(5, 2, 16)
    assert all(np.array_equal(first[field], again[field]) for field in first)
    seen = {row.tobytes() for row in first["inputs"]}
    assert len(seen) == 16
    for seed, index in ((5, 3), (6, 2), (2, 5)):  # other batches, other splits: not one row twice
        assert seen.isdisjoint(row.tobytes() for row in task.batch(seed, index, 256)["inputs"])


def test_inputs_do_not_reveal_the_answers():
    """No answer stands among the questions, and a question's token says nothing about its own."""
    for task, first in ((MQAR(), 16), (Copying(), 56)):
        batch = task.batch(0, 0, 4000)
        asked = batch["weights"] > 0
        answers, tokens = batch["targets"][asked], batch["inputs"][asked]
        assert not np.isin(batch["inputs"][:, first:], answers).any()
        for token in np.unique(tokens):
            counts = np.bincount(answers[tokens == token])
            assert counts.max() / counts.sum() < 2 * task.chance
    batch = Passkey().batch(0, 0, 50)
    for row in range(50):
        mark = batch["inputs"][row].tolist().index(10)
        digits = np.flatnonzero(batch["inputs"][row] < 10)
        assert digits.tolist() == list(range(mark + 1, mark + 6))  # nowhere else in the text


@pytest.mark.parametrize("task", SAMPLES, ids=str)
def test_chance_is_the_accuracy_of_the_best_blind_guess(task):
    count = 4000
    batch = task.batch(1, 0, count)
    shares = []
    for place in np.flatnonzero(batch["weights"].any(0)):
        asked = batch["weights"][:, place] > 0
        shares.append((asked.sum(), np.bincount(batch["targets"][asked, place]).max()))
    if isinstance(task, S5 | Parity):
        # Each place has a guess of its own: at the first, a swap is one of ten.
        found = np.mean([right / asked for asked, right in shares])
    else:
        answers = batch["targets"][batch["weights"] > 0]
        found = np.bincount(answers).max() / answers.size
    # The likeliest of many classes is overrated by chance, by about three standard errors.
    assert task.chance - 0.01 < found < task.chance + 4 * (task.chance / count) ** 0.5
    if isinstance(task, Passkey) and task.digits == 5:
        assert task.chance**task.digits == pytest.approx(1e-5)


def test_queries_come_soon_after_the_pairs_with_a_small_power():
    def distance(power):
        task = MQAR(seq_len=128, pairs=4, power=power)
        batch = task.batch(0, 0, 500)
        return (np.nonzero(batch["weights"])[1] - 8).mean()

    assert distance(0.01) < 0.5 * distance(1.0)
    # A power of one weighs all 60 places alike.
    assert distance(1.0) == pytest.approx(2 * 29.5, rel=0.05)
    task = MQAR(seq_len=66, pairs=1)
    places = (np.nonzero(task.batch(0, 0, 20_000)["weights"])[1] - 2) // 2
    weight = 0.01 * np.arange(1, 33) ** -0.99
    share = np.bincount(places, minlength=32) / 20_000
    np.testing.assert_allclose(share, weight / weight.sum(), atol=0.012)


def test_moves_of_s5():
    cases = {"all": 120, "swaps": 10, "generators": 2}
    for moves, count in cases.items():
        batch = S5(seq_len=32, moves=moves).batch(0, 0, 200)
        used = {PERMUTATIONS[token] for token in np.unique(batch["inputs"])}
        assert len(used) == count
        if moves == "swaps":
            assert all(sum(p[x] != x for x in range(5)) == 2 for p in used)
        assert len(np.unique(batch["targets"])) == 120  # they generate the group
    # A walk that always moves is at each place either even or odd: sixty permutations are left.
    assert S5(seq_len=1).chance == pytest.approx(1 / 10)
    late = 100 * S5(seq_len=100).chance - 99 * S5(seq_len=99).chance
    assert late == pytest.approx(1 / 60)
    assert S5(moves="all").chance == pytest.approx(1 / 120)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MQAR(pairs=0), "pairs must be an integer >= 1, got 0"),
        (lambda: MQAR(vocab_size=63), "must be even"),
        (lambda: MQAR(vocab_size=16, pairs=8), "got 16; 18 is enough"),
        (lambda: MQAR(seq_len=31), "pairs=8 takes 32 tokens, seq_len is 31"),
        (lambda: MQAR(power=0.0), "power must be positive"),
        (lambda: Copying(values=1), "values must be an integer >= 2"),
        (lambda: Copying(seq_len=15), "copies=8 takes 16 tokens"),
        (lambda: InductionHeads(seq_len=2), "seq_len must be an integer >= 3"),
        (lambda: Passkey(digits=5.0), "digits must be an integer >= 1, got 5.0"),
        (lambda: Passkey(distance=-1), "distance must be an integer >= 0"),
        (lambda: Passkey(seq_len=30, distance=20), "digits=5, distance=20 takes 31 tokens"),
        (lambda: Parity(seq_len=True), "seq_len must be an integer >= 1, got True"),
        (lambda: S5(moves="turns"), "one of all, swaps, generators, got 'turns'"),
        (lambda: Parity().batch(-1, 0, 1), "seed >= 0"),
        (lambda: Parity().batch(0, 0, 0), "batch_size >= 1"),
    ],
)
def test_invalid_fields_are_named(make, message):
    with pytest.raises(UserError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_shortest_valid_seq_len_is_accepted():
    for task in (MQAR(seq_len=32), Copying(seq_len=16), Passkey(seq_len=11), InductionHeads(3)):
        batch = task.batch(0, 0, 50)
        assert batch["weights"].any(1).all()


def test_unscored_targets_are_zero():
    batch = rows.make_batch(np.ones((1, 3)), np.full((1, 3), 7), np.array([[True, False, True]]))
    assert batch["targets"].tolist() == [[7, 0, 7]]
