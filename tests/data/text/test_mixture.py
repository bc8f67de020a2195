"""Mixtures by phase, questions about oneself, and validation tails that training never touches."""

import numpy as np
import pytest

from jaxmodels.data import (
    Document,
    Mixture,
    load_corpus,
    make_metacognition,
    make_stream,
    split_tails,
)
from jaxmodels.data.loading import grain_dataset
from jaxmodels.data.readers.metacognition import KINDS
from jaxmodels.data.text.mixture import phase_shares
from jaxmodels.errors import UserError
from tests.train.corpus import small_text
from tests.train.toy import toy_config
from train.config import from_json, to_json
from train.tasks import open_task
from train.tasks.text import corpus_of

WEIGHTS = {"low": (9.0, 1.0, 0.0, 1.0), "high": (1.0, 1.0, 2.0, 3.0)}


def mixture(rows=range(64), batch_size=64, ends=(20, 60, 90, 100), **weights):
    """Tokens below 100 in one source, from 100 on in the other."""
    low = [Document("a", np.arange(0, 40)), Document("b", np.arange(40, 100))]
    sources = {"low": low, "high": [Document("c", np.arange(100, 170))]}
    return Mixture(
        sources,
        weights or WEIGHTS,
        ends,
        rows=np.array(rows),
        batch_size=batch_size,
        seq_len=8,
        seed=5,
    )


def test_shares_follow_the_phases():
    source = mixture()
    for begin, end, share in ((0, 20, 0.1), (20, 60, 0.5), (60, 90, 1.0), (90, 100, 0.75)):
        high = np.mean([source(step)["inputs"][:, 0] >= 100 for step in range(begin, end)])
        tolerance = 4 * np.sqrt(share * (1 - share) / (64 * (end - begin)))  # four sigma
        assert abs(high - share) <= tolerance, (begin, high)
    assert [source.phase(step) for step in (0, 19, 20, 59, 60, 89, 90, 99, 100, 10**6)] == [
        *(0, 0, 1, 1, 2, 2, 3, 3, 3, 3)
    ]


def test_a_row_is_a_window_of_one_source():
    batch = mixture()(70)
    source = batch["inputs"] >= 100
    assert (source == source[:, :1]).all()
    targets = batch["weights"] > 0
    assert (batch["targets"][targets] == batch["inputs"][targets] + 1).all()
    assert batch["reset"][:, 0].all()
    ends = np.isin(batch["inputs"], (39, 99, 169))
    np.testing.assert_array_equal(targets, ~ends)


def test_batches_are_a_function_of_seed_and_step():
    iterator = iter(grain_dataset(mixture(), prefetch=0))
    for _ in range(3):
        batch = next(iterator)
    assert iterator.get_state()["next_index"] == 3
    np.testing.assert_array_equal(batch["inputs"], mixture()(2)["inputs"])
    half = mixture(rows=range(32, 64))(2)
    np.testing.assert_array_equal(half["inputs"], batch["inputs"][32:])
    assert not np.array_equal(mixture()(3)["inputs"], batch["inputs"])


def test_sources_of_weight_0_are_never_drawn():
    thirds = {"low": (1 / 3,) * 3 + (0.0,), "high": (0.0, 1 / 3, 1 / 3, 1.0)}
    source = mixture(**thirds)
    assert not source.sources(5).any()
    assert source.sources(95).all()


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"a": (1.0,), "b": (1.0, 1.0)}, "data.mixture.a: needs 2 weights"),
        ({"a": (1.0, -1.0), "b": (1.0, 1.0)}, "data.mixture.a: needs 2 weights >= 0"),
        ({"a": (1.0, 0.0), "b": (1.0, 0.0)}, "every phase needs a source"),
    ],
)
def test_invalid_weights(weights, says):
    with pytest.raises(UserError, match=says):
        phase_shares(weights, weights, 2)


def test_generated_metacognition():
    made = make_metacognition(40, seed=1)
    assert [record.text for record in made] == [r.text for r in make_metacognition(40, seed=1)]
    assert len({record.text for record in made}) > 15
    for record in made:
        question, answer = record.text.decode().rstrip("\n").split("\n")
        assert question.startswith("Question: ")
        assert answer.startswith("Answer: ")
        assert "{" not in record.text.decode()
    assert [record.name.split(":")[0] for record in made[:4]] == list(KINDS)
    assert [record.kind for record in made[:4]] == list(KINDS)
    assert {record.kind for record in make_metacognition(9, ("identity",))} == {"identity"}


def test_the_metacognition_sample_is_read(tmp_path):
    folder = "Data/metacognition"
    corpus = load_corpus(folder, format="metacognition", valid_fraction=0, test_fraction=0)
    text = bytes(corpus.train[0].tokens).decode()
    question = "I wrote a lamp, then a river. What came first?"
    assert text == f"Question: {question}\nAnswer: First came a lamp.\n\n"
    assert len(corpus.train) == 12
    wrong = tmp_path / "x.jsonl"
    wrong.write_text('{"question": "a?", "answer": "b", "kind": "self"}\n')
    with pytest.raises(UserError, match=r"x.jsonl:1: unknown kind 'self'"):
        load_corpus(wrong, format="metacognition")


@pytest.mark.parametrize("sizes", [(1000,), (30, 400, 3, 200, 1, 57, 309)])
@pytest.mark.parametrize(("tracks", "fraction"), [(4, 0.1), (7, 0.25), (1, 0.1)])
def test_tails_never_overlap_training(sizes, tracks, fraction):
    """Tokens are positions, so that an overlap would show; only cut single tokens are lost."""
    ends = np.cumsum(sizes)
    starts = ends - np.array(sizes)
    documents = [Document(str(a), np.arange(a, b)) for a, b in zip(starts, ends, strict=True)]
    heads, tails = split_tails(documents, tracks, fraction)
    train, valid = (np.concatenate([d.tokens for d in part]) for part in (heads, tails))
    assert not np.intersect1d(train, valid).size
    lost = 1000 - len(train) - len(valid)
    assert lost <= 2 * tracks + sizes.count(1)
    track = 1000 // tracks
    where = np.minimum(valid // track, tracks - 1)
    begin = (np.arange(tracks) + 1) * track - round(track * fraction)
    assert (valid >= begin[where]).all()
    assert (np.bincount(where, minlength=tracks) > 0).all()
    stream = iter(make_stream(heads, batch_size=2, seq_len=16, seed=0, prefetch=0))
    for _ in range(40):
        batch = next(stream)
        seen = np.concatenate(
            [batch["inputs"], batch["targets"][batch["weights"] > 0].ravel()], axis=None
        )
        assert not np.intersect1d(seen, valid).size


def test_invalid_tails():
    documents = [Document("a", np.arange(30))]
    with pytest.raises(UserError, match="corpus too short: 30 tokens in 8 tracks"):
        split_tails(documents, 8, 0.1)
    with pytest.raises(UserError, match=r"data.valid_fraction: must be in \(0, 1\)"):
        split_tails(documents, 2, 0.0)


@pytest.fixture
def texts(tmp_path):
    (tmp_path / "text.txt").write_text(small_text(800))
    return tmp_path


def test_tails_from_a_config(texts):
    config = toy_config(data__paths=(str(texts / "text.txt"),), data__valid_from="tail_of_tracks")
    config.data.valid_fraction = 0.1
    corpus = corpus_of(config)
    sizes = [sum(map(len, part)) for part in (corpus.train, corpus.valid)]
    assert sizes[1] == pytest.approx(0.1 * sum(sizes), rel=0.02)
    assert len(corpus.valid) == config.batch_size
    assert corpus.split.startswith("by track: of each of 8 tracks the last 0.1")


def test_a_mixture_from_a_config(texts):
    config = toy_config(data__paths=(), data__mode="windows", steps=10)
    sources = {
        "text": {"paths": (str(texts / "text.txt"),), "weights": (1.0, 0.5, 0.5, 0.0)},
        "talk": {
            "paths": ("Data/metacognition",),
            "weights": (0.0, 0.5, 0.5, 1.0),
            "format": "metacognition",
        },
    }
    config.data.mixture = type(config)(sources)
    config = from_json(to_json(config))
    assert config.data.mixture.to_dict() == sources
    data = open_task(config)
    batches = [batch for batch, _ in zip(data.train, range(10), strict=False)]
    first, last = (bytes(batch["inputs"].astype(np.uint8).ravel()) for batch in batches[::9])
    assert b"uestion" not in first
    assert b"uestion" in last or b"Answer" in last
    assert data.corpus.name == "talk + text"
    for wrong, says in (
        ({"mode": "tracks"}, "set data.mode='windows'"),
        ({"mixture_ends": (0.5, 0.2, 0.3, 1.0)}, "must ascend to 1.0"),
    ):
        other = config.copy_and_resolve_references()
        for name, value in wrong.items():
            other.data[name] = value
        with pytest.raises(UserError, match=says):
            open_task(other)
    config.data.mixture.talk.weihgts = 3
    with pytest.raises(UserError, match=r"config.data.mixture.talk: unknown field 'weihgts'"):
        open_task(config)
