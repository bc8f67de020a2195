"""Contexts of HFT: segments and their offsets, windows over documents, projection (F-01, F-02)."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.models.hft.config import SEGMENTS, TAUGHT, HFTConfig
from jaxmodels.models.hft.context import (
    positions_of,
    project,
    raw_entries,
    raw_size,
    segment_table,
    windows_of,
)

SMALL = {
    "vocab_size": 11,
    "window": 4,
    "ngram_orders": (2, 3),
    "ngram_bins": 64,
    "sketch_size": 256,
    "width": 64,
    "embedding_size": 8,
    "phases": 4,
    "hidden_size": 6,
    "query_size": 5,
    "key_size": 3,
}


def config(**changes):
    return HFTConfig(**(SMALL | changes))


def dense(c, windows, positions=None, vectors=None):
    """Raw vectors (..., D), written out."""
    windows = jnp.asarray(windows)
    positions = jnp.zeros(windows.shape[:-1], jnp.int32) if positions is None else positions
    ids, values = (np.asarray(x) for x in raw_entries(c, windows, positions, vectors))
    out = np.zeros((*ids.shape[:-1], raw_size(c)))
    for place in np.ndindex(ids.shape):
        out[place[:-1]][ids[place]] += values[place]
    return out


def test_offset_table_covers_the_raw_vector():
    c = config(segments=SEGMENTS)
    table = segment_table(c)
    assert [s.name for s in table] == list(SEGMENTS)
    assert [s.offset for s in table] == list(np.cumsum([0, *(s.size for s in table)]))[:-1]
    assert [s.size for s in table] == [4 * 12, 2 * 64, 64, 8, 8, 6, 5, 3, 3]
    rng, sizes = np.random.default_rng(0), {s.name: s.size for s in table if s.name in TAUGHT}
    vectors = {name: jnp.asarray(rng.standard_normal((1, n), "f")) for name, n in sizes.items()}
    whole = dense(c, [[1, 2, 3, 4]], vectors=vectors)[0]
    for segment in table:  # each alone is its slice of the whole, up to the common scale
        own = dense(config(segments=(segment.name,)), [[1, 2, 3, 4]], vectors=vectors)[0]
        part = whole[segment.offset : segment.offset + segment.size]
        assert own.any() and np.allclose(part / np.linalg.norm(part), own / np.linalg.norm(own))
        if segment.name in TAUGHT:
            np.testing.assert_allclose(own, vectors[segment.name][0])


def test_tokens_are_one_hot_by_distance():
    c = config(segments=("tokens",), decay=0.5)
    raw = dense(c, [[-1, 5, 2, 7]])[0].reshape(4, 12)  # newest first
    assert [int(np.flatnonzero(row)[0]) for row in raw] == [7, 2, 5, 11]
    np.testing.assert_allclose(raw.max(1) / raw.max(), [1, 0.5, 0.25, 0.125])


@pytest.mark.parametrize("segment", ["tokens", "ngrams", "order"])
def test_permuted_tokens_give_other_features(segment):
    c = config(segments=(segment,))
    windows = jnp.array([[1, 2, 3, 4], [2, 1, 3, 4], [4, 3, 2, 1]])
    x = np.asarray(project(c, *raw_entries(c, windows, jnp.zeros(3, jnp.int32))), np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosines = x @ x.T
    assert cosines[0, 1] < 0.99 and cosines[0, 2] < cosines[0, 1]


@pytest.mark.parametrize("reset", [False, True])
def test_windows_and_positions_end_at_document_starts(reset):
    rng = np.random.default_rng(0)
    before, tokens = rng.integers(0, 9, (3, 4)), rng.integers(0, 9, (3, 20))
    before[0, :2] = -1
    starts = rng.random((3, 20)) < 0.2
    starts[1, 0] = True
    where = starts if reset else None
    windows = np.asarray(windows_of(before, tokens, where))
    positions = np.asarray(positions_of(np.array([2, 9, 4]), where, 20))
    for row in range(3):
        seen, count = list(before[row]), [2, 9, 4][row]
        for t in range(20):
            if reset and starts[row, t]:
                seen, count = [-1] * 4, 0
            seen = [*seen[1:], tokens[row, t]]
            np.testing.assert_array_equal(windows[row, t], seen)
            assert positions[row, t] == count
            count += 1


def test_projection_keeps_norm_and_block_norm_does_not():
    c = config(segments=("tokens", "ngrams"), ngram_weight=1.0)
    windows = jnp.asarray(np.random.default_rng(0).integers(0, 11, (200, 4)))
    entries = raw_entries(c, windows, jnp.zeros(200, jnp.int32))
    norms = np.linalg.norm(np.asarray(project(c, *entries)), axis=1)
    assert abs((norms**2).mean() - 1.0) < 0.1
    normed = np.asarray(project(config(block_norm=32), *entries))
    np.testing.assert_allclose((normed.reshape(200, -1, 32) ** 2).mean(-1), 1.0, rtol=1e-3)
    assert project(config(views=2), *entries).shape == (200, 128)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"segments": ()}, "at least one part"),
        ({"segments": ("tokens", "logits")}, "got 'logits'"),
        ({"segments": ("tokens", "tokens")}, "distinct"),
        ({"ngram_orders": (2, 5)}, "from 1 to window=4"),
        ({"segments": ("hidden",), "hidden_size": 0}, "needs a hidden_size"),
        ({"segments": ("values",), "key_size": 0}, "segment 'values' needs a key_size"),
        ({"sketch_size": 100}, "power of two, got 100"),
        ({"block_norm": 48}, "must divide width=64"),
        ({"seeding": "k-means"}, "seed_stride=2 or more, got 1"),
        ({"directions": 8}, "needs whiten_after"),
        ({"directions": 65, "whiten_after": 2}, "at most views x width = 64"),
        ({"decay": 0.0}, "decay must be in (0, 1]"),
        ({"tensors": 0}, "tensors must be a positive integer, got 0"),
        ({"relocated": 9, "tensors": 8}, "exceeds tensors=8"),
        ({"dtype": "bfloat16"}, "dtype must be one of float32"),
        ({"temperature": -1.0}, "temperature must be positive"),
        ({"distance": "planar"}, "set through_weights=False"),
        ({"weighting": "inverse", "geometry_rate": 0.0, "compressor": 8}, "got 'euclidean'"),
    ],
)
def test_bad_settings_get_one_line(changes, says):
    with pytest.raises(UserError) as error:
        config(**changes)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_teacher_of_another_width_is_refused():
    for name, x, says in (
        ("hidden", None, "hidden_size=6, got none"),
        ("queries", jnp.ones((1, 6)), "query_size=5, got vectors of 6"),
    ):
        c, vectors = config(segments=(name,)), {} if x is None else {name: x}
        with pytest.raises(UserError, match=says):
            raw_entries(c, jnp.zeros((1, 4), jnp.int32), jnp.zeros(1, jnp.int32), vectors)
