"""The relation grammar: its answers and labels follow from its facts, and from nothing else."""

import numpy as np
import pytest

from jaxmodels.data import RelationGrammar, relation_batch
from jaxmodels.errors import UserError

GRAMMAR = RelationGrammar(entities=4, values=6, questions=5)


@pytest.mark.parametrize("shuffled", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_labels_equal_a_replay_of_the_tokens(shuffled, own):
    grammar = RelationGrammar(entities=4, values=6, questions=4, own=own, shuffled=shuffled)
    batch = relation_batch(grammar, 6, 2 * grammar.episode_len + 3, 0, 0)
    for row in range(6):
        value, link, asked = {}, {}, set()
        words = grammar.describe(batch["inputs"][row]).split()
        for t, word in enumerate(words):
            if word == "PAD":
                assert (batch["relation_labels"][row, t] == -1).all()
                assert batch["weights"][row, t] == 0 and batch["hops"][row, t] == -1
                continue
            assert batch["reset"][row, t] == (word == "START")
            if word == "START":
                value, link, asked = {}, {}, set()
            if t and words[t - 1] == "HAS":
                value[words[t - 2]] = word
            if t and words[t - 1] == "POINTS":
                link[words[t - 2]] = word
                assert word != words[t - 2]
            question = t > 0 and words[t - 1] in ("OWN", "VIA")
            assert batch["weights"][row, t] == question
            if question:
                via = words[t - 1] == "VIA"
                answer = value[link[word]] if via else value[word]
                assert words[t + 1] == answer
                assert batch["targets"][row, t] == batch["inputs"][row, t + 1]
                assert batch["hops"][row, t] == 1 + via and (own or via)
                assert (via, word) not in asked
                asked.add((via, word))
            for slot in range(grammar.slots):
                e = f"e{slot}"
                far = value.get(link.get(e))
                want = [
                    int(value[e][1:]) if e in value else -1,
                    6 + int(link[e][1:]) if e in link else -1,
                    int(far[1:]) if far else -1,
                    -1,
                ]
                assert batch["relation_labels"][row, t, slot].tolist() == want
        assert len(set(value.values())) == 4


def test_baseline_accuracies():
    batch = relation_batch(RelationGrammar(questions=8), 2000, 60, 1, 0)
    labels = batch["relation_labels"][:, 30, :4]
    own, via = labels[..., 0], labels[..., 2]
    assert (own != via).all() and (own >= 0).all()
    counts = np.bincount(via.ravel(), minlength=8) / via.size
    assert np.allclose(counts, 1 / 8, atol=0.02)
    first = np.where(own[:, :1] == 0, -1, own)  # guessing another entity's value: right 1 in E - 1
    assert abs((via[:, 0] == first[:, 1]).mean() - 1 / 3) < 0.05
    links = labels[..., 1] - 8
    assert np.allclose(
        [(links[:, 0] == j).mean() for j in range(4)], [0, 1 / 3, 1 / 3, 1 / 3], atol=0.05
    )


def test_sizes_and_classes():
    grammar = RelationGrammar()
    batch = relation_batch(grammar, 3, 64, 0, 5)
    assert grammar.vocab_size == 18 and grammar.episode_len == 37 and grammar.num_classes == 12
    assert batch["inputs"].max() < grammar.vocab_size
    assert batch["relation_labels"].max() < grammar.num_classes
    assert {n: (v.dtype.name, v.shape) for n, v in batch.items()} == {
        "inputs": ("int32", (3, 64)),
        "targets": ("int32", (3, 64)),
        "weights": ("float32", (3, 64)),
        "reset": ("bool", (3, 64)),
        "relation_labels": ("int32", (3, 64, 16, 4)),
        "hops": ("int32", (3, 64)),
    }


def test_a_batch_is_a_function_of_seed_and_step():
    first, other = (relation_batch(GRAMMAR, 4, 50, 3, step) for step in (0, 1))
    again = relation_batch(GRAMMAR, 4, 50, 3, 0)
    assert all((again[name] == first[name]).all() for name in first)
    assert (first["inputs"] != other["inputs"]).any()
    assert (relation_batch(GRAMMAR, 4, 50, 4, 0)["inputs"] != first["inputs"]).any()
    row = GRAMMAR.batch(3, 0, 4)
    assert all((row[name] == again[name][:, : GRAMMAR.seq_len]).all() for name in row)


@pytest.mark.parametrize(
    "fields",
    [
        {"entities": 1},
        {"entities": 9},
        {"values": 60},
        {"slots": 3},
        {"questions": 9},
        {"questions": 0},
    ],
)
def test_invalid_grammars(fields):
    with pytest.raises(UserError, match="relation grammar"):
        RelationGrammar(**fields)


def test_an_episode_must_fit():
    with pytest.raises(UserError, match=r"seq_len 30 .* \(40 tokens\)"):
        relation_batch(GRAMMAR, 2, 30, 0, 0)
