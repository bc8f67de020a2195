"""Questions with answers: rows, batches."""

import numpy as np
import pytest

from jaxmodels.data.pairs.rows import (
    Augmentation,
    Pair,
    PairCorpus,
    lay_out_pairs,
    row_eval_stream,
    row_stream,
    that_fit,
)
from jaxmodels.data.tokenizers.answers import AnswerCharTokenizer
from jaxmodels.errors import UserError

PAIRS = [Pair(f"add {i}", str(i + 1), identifier=i) for i in range(10)]
CHARS = AnswerCharTokenizer()


def rows():
    return lay_out_pairs(PAIRS, CHARS, "nar", 16)


def test_pairs_that_are_too_long_are_refused_or_left_out():
    pairs = [Pair("short", "ok"), Pair("much too long for it", "no")]
    with pytest.raises(UserError, match=r"does not fit in 12 \(pair 1: 'much too"):
        lay_out_pairs(pairs, CHARS, "nar", 12)
    kept = lay_out_pairs(pairs, CHARS, "nar", 12, skip_long=True)
    assert kept.kept.tolist() == [0] and kept.inputs.shape == (1, 12)
    with pytest.raises(UserError, match="none of 1 pairs fits"):
        lay_out_pairs(pairs[1:], CHARS, "nar", 12, skip_long=True)


@pytest.mark.parametrize(
    ("limits", "kept", "message"),
    [
        ((5, None), [0, 1], r"max_input_length: 20 tokens, at most 5 \(pair 2"),
        ((None, 2), [0, 2], r"max_output_length: 5 tokens, at most 2 \(pair 1"),
        ((20, 5), [0, 1, 2], ""),
    ],
)
def test_limits_of_questions_and_answers(limits, kept, message):
    """L-05: counted in tokens, without separator and end."""
    pairs = [Pair("short", "ok"), Pair("short", "is it"), Pair("much too long for it", "no")]
    found = lay_out_pairs(pairs, CHARS, "nar", 32, limits, skip_long=True)
    assert found.kept.tolist() == kept
    assert that_fit(pairs, CHARS, "nar", 32, limits) == [pairs[i] for i in kept]
    if message:
        with pytest.raises(UserError, match=message):
            lay_out_pairs(pairs, CHARS, "nar", 32, limits)
    # Without answers, for inference, questions alone count.
    asked = [lay_out_pairs(pairs[:1], CHARS, "nar", 32, (5, 1), answered=False)]
    assert asked[0].kept.tolist() == [0]


def test_every_epoch_gives_every_row_once_in_a_new_order():
    stream = row_stream(rows(), batch_size=4, seed=3, prefetch=0)
    batches = [batch for batch, _ in zip(stream, range(5), strict=False)]
    seen = np.concatenate([batch["identifiers"] for batch in batches])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()
    row = rows()
    first = batches[0]["identifiers"][0]
    np.testing.assert_array_equal(batches[0]["inputs"][0], row.inputs[first])
    np.testing.assert_array_equal(batches[0]["targets"][0], row.targets[first])
    np.testing.assert_array_equal(batches[0]["weights"][0], row.weights[first])


def test_a_stream_resumes_from_its_state_and_hosts_divide_the_rows():
    def keys(batch):
        return batch["identifiers"].tolist()

    whole = iter(row_stream(rows(), batch_size=4, seed=1, prefetch=0))
    expected = [keys(next(whole)) for _ in range(6)]
    again = iter(row_stream(rows(), batch_size=4, seed=1, prefetch=2))
    for _ in range(2):
        next(again)
    state = again.get_state()
    assert state["next_index"] == 2
    other = iter(row_stream(rows(), batch_size=4, seed=1, prefetch=0))
    other.set_state(state)
    assert [keys(next(other)) for _ in range(4)] == expected[2:]
    halves = [
        iter(row_stream(rows(), batch_size=4, seed=1, host_index=i, host_count=2, prefetch=0))
        for i in range(2)
    ]
    for batch in expected:
        assert keys(next(halves[0])) + keys(next(halves[1])) == batch


def test_every_epoch_augments_rows_differently_and_reproducibly():
    def apply(words, question, answer):
        return np.full_like(question, words[0] % np.uint64(1000)), answer

    def drawn(seed):
        made = row_stream(
            rows(), batch_size=5, seed=seed, augmentation=Augmentation(apply, 2), prefetch=0
        )
        return [batch["inputs"][:, 0].tolist() for batch, _ in zip(made, range(4), strict=False)]

    assert drawn(0) == drawn(0) != drawn(1)
    assert len({x for batch in drawn(0) for x in batch}) > 15  # of 20 rows in two epochs


def test_evaluation_gives_every_row_once_and_pads_with_weight_0():
    batches = list(row_eval_stream(rows(), batch_size=4, prefetch=0))
    assert len(batches) == 3
    real = np.concatenate([batch["weights"].any(1) for batch in batches])
    seen = np.concatenate([batch["identifiers"] for batch in batches])
    assert seen[real].tolist() == list(range(10)) and real.sum() == 10
    assert (batches[2]["weights"][2:] == 0).all()


def test_fingerprint_depends_on_pairs_and_tokenizer():
    corpus = PairCorpus("x", tuple(PAIRS[:8]), tuple(PAIRS[8:9]), tuple(PAIRS[9:]), CHARS, "")
    moved = PairCorpus("x", tuple(PAIRS[:7]), tuple(PAIRS[7:9]), tuple(PAIRS[9:]), CHARS, "")
    other = PairCorpus(
        "x", *(corpus.train, corpus.valid, corpus.test), AnswerCharTokenizer("a"), ""
    )
    assert len({corpus.fingerprint(), moved.fingerprint(), other.fingerprint()}) == 3
