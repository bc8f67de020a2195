"""Sketches against float64 NumPy: definitions, unbiasedness, norms, hashes (F-03 to F-07, F-23)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.ops.common.integer_hash import mix
from jaxmodels.ops.sketch import (
    apply_block_srht,
    count_sketch,
    fit_whitening,
    hash_ngrams,
    hash_order,
    srht,
    srht_views,
    walsh_hadamard,
    whiten,
)
from jaxmodels.ops.sketch.count_sketch import places_and_signs

ROUNDING = 2e-6  # sums of up to 4,096 float32 terms, relative to the largest entry


def samples(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(got, want, tolerance=ROUNDING):
    np.testing.assert_allclose(
        np.asarray(got, np.float64), want, atol=tolerance * np.abs(want).max()
    )


def sketch(x, size, seed):
    """The sketch of a dense vector (..., D)."""
    ids = np.broadcast_to(np.arange(x.shape[-1], dtype=np.int32), x.shape)
    return count_sketch(ids, x, x.shape[-1], size, seed)


@pytest.mark.parametrize(("inputs", "size"), [(100, 16), (64, 64), (33, 50)])
def test_count_sketch_equals_its_definition(inputs, size):
    x = samples(3, inputs)
    places, signs = places_and_signs(inputs, size, 7)
    want = np.zeros((3, size))
    for i in range(inputs):
        want[:, places[i] % size] += signs[i] * x[:, i].astype(np.float64)
    close(sketch(x, size, 7), want)
    assert not np.array_equal(sketch(x, size, 8), sketch(x, size, 7))


def test_count_sketch_of_entries_equals_that_of_the_dense_vector():
    rng = np.random.default_rng(1)
    ids, values = rng.integers(0, 90, (2, 4, 11)), samples(2, 4, 11)
    dense = np.zeros((2, 4, 90), np.float32)
    for place in np.ndindex(ids.shape):
        dense[place[:2]][ids[place]] += values[place]
    close(count_sketch(ids, values, 90, 32, 3), np.asarray(sketch(dense, 32, 3)))


def test_count_sketch_is_unbiased_with_the_known_variance():
    x, y = samples(2, 3000).astype(np.float64)
    size, draws = 512, 200
    sketches = np.stack([sketch(np.float32([x, y]), size, seed) for seed in range(draws)])
    inner = (sketches[:, 0] * sketches[:, 1]).sum(-1) / (np.linalg.norm(x) * np.linalg.norm(y))
    squares = (sketches[:, 0].astype(np.float64) ** 2).sum(-1) / (x @ x)
    assert abs(inner.mean() - x @ y / np.linalg.norm(x) / np.linalg.norm(y)) < 4 / np.sqrt(
        size * draws
    )
    assert abs(squares.mean() - 1) < 4 * np.sqrt(2 / size / draws)
    assert 0.7 * np.sqrt(2 / size) < squares.std() < 1.2 * np.sqrt(2 / size)  # 6.25 % at 512


@pytest.mark.parametrize("size", [1, 2, 8, 32, 4096])
def test_walsh_hadamard_equals_the_matrix(size):
    matrix = np.ones((1, 1))
    while len(matrix) < size:
        matrix = np.kron(np.array([[1, 1], [1, -1]]), matrix)
    x = samples(3, size)
    close(walsh_hadamard(x), x.astype(np.float64) @ matrix)


def test_srht_keeps_norms_and_inner_products():
    x = samples(2, 3000)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    results = np.stack([np.asarray(srht(unit, 512, seed), np.float64) for seed in range(100)])
    squares = (results[:, 0] ** 2).sum(-1)
    assert abs(squares.mean() - 1) < 0.02 and squares.std() < 1.2 * np.sqrt(2 / 512)
    inner = (results[:, 0] * results[:, 1]).sum(-1).mean()
    assert abs(inner - unit[0] @ unit[1]) < 0.02
    whole = np.asarray(srht(unit, 4096, 0), np.float64)  # all rows: a rotation
    np.testing.assert_allclose((whole**2).sum(-1), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "size", "block"), [(256, 64, 64), (200, 130, 64), (64, 160, 64)]
)
def test_block_srht_keeps_the_norm_of_each_block(inputs, size, block):
    x = samples(inputs) / np.sqrt(inputs)
    squares = [
        float((np.asarray(apply_block_srht(x, size, s, block)) ** 2).sum()) for s in range(300)
    ]
    assert abs(np.mean(squares) - (x.astype(np.float64) ** 2).sum()) < 0.05
    count = -(-inputs // block)
    for i in range(count):
        part = np.zeros_like(x)
        part[i * block : (i + 1) * block] = x[i * block : (i + 1) * block]
        sketch = np.asarray(apply_block_srht(part, size, 0, block))
        own = slice(i * size // count, (i + 1) * size // count)
        assert np.flatnonzero(sketch).size and not np.delete(sketch, np.r_[own]).any()


def test_more_outputs_than_inputs_keep_the_norm_exactly():
    x = samples(64)
    twice = apply_block_srht(x, 128, 0, 64)
    np.testing.assert_allclose(np.sum(np.square(twice)), np.sum(x.astype(float) ** 2), rtol=1e-5)
    assert not np.allclose(np.abs(twice[:64]), np.abs(twice[64:]))


def test_views_are_independent():
    x = samples(500, 256)
    both = np.asarray(srht_views(x, 32, 0, 2, block=256), np.float64)
    one, two = both[:, :32], both[:, 32:]
    correlation = np.corrcoef(one.T, two.T)[:32, 32:]
    assert np.abs(correlation).max() < 0.3 < 0.99 < np.abs(np.corrcoef(one.T)).max()
    np.testing.assert_allclose((both**2).sum() / (x.astype(float) ** 2).sum(), 1, rtol=0.1)


def test_float16_is_summed_in_float32():
    """1e5 ones: a sum in float16 would stop at 2,048."""
    x = np.ones((1, 100_000), np.float16)
    places, signs = places_and_signs(100_000, 4, 0)
    want = np.bincount(places % 4, signs.astype(np.float64), 4)[None]
    close(sketch(x, 4, 0), want)
    halves = samples(2, 4096).astype(np.float16)
    wide = halves.astype(np.float32)
    for transform in (walsh_hadamard, lambda x: apply_block_srht(x, 1024, 0, 1024)):
        assert transform(halves).dtype == jnp.float32
        np.testing.assert_array_equal(transform(halves), transform(wide))


def test_seeds_are_stored_not_matrices():
    """A compiled sketch holds signs and places, D numbers each, and nothing of size D x m."""
    text = jax.jit(lambda x: apply_block_srht(sketch(x, 1024, 0), 512, 0)).lower(
        jax.ShapeDtypeStruct((2, 4096), jnp.float32)
    )
    assert len(text.as_text()) < 1.5e5  # 4096 x 512 numbers would take millions of characters


def test_ngram_hashes_depend_on_tokens_and_order():
    windows = np.array([[5, 1, 2, 3], [9, 1, 2, 3], [5, 1, 3, 2]])
    hashes = {order: np.asarray(hash_ngrams(windows, order, 0)) for order in (1, 2, 3, 4)}
    assert hashes[3][0] == hashes[3][1] != hashes[3][2]
    assert len({int(h) for h in hashes[4]}) == 3
    assert hashes[2][0] != hash_ngrams(windows, 2, 1)[0]  # another seed
    assert len({int(hashes[order][0]) for order in hashes}) == 4


def test_permuted_tokens_are_told_apart():
    """The same tokens in another order: cosine of the indicators below 1 (F-06)."""
    one, two = np.array([[3, 7, 11, 2]]), np.array([[7, 3, 11, 2]])
    ids = [np.asarray(hash_order(x, 16, 0) % 512)[0] for x in (one, two)]
    dense = [np.bincount(i, minlength=512) for i in ids]
    assert 0.3 < dense[0] @ dense[1] / 4 < 0.9  # two of four tokens have moved
    period_one = [np.sort(np.asarray(hash_order(x, 1, 0))[0]) for x in (one, two)]
    np.testing.assert_array_equal(*period_one)  # a bag of words


def test_mix_is_a_bijection_that_scatters():
    hashed = np.asarray(mix(np.arange(1 << 16)))
    assert len(np.unique(hashed)) == 1 << 16
    counts = np.bincount(hashed % 64, minlength=64)
    assert np.abs(counts / 1024 - 1).max() < 0.15


def test_whitened_covariance_is_the_identity():
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    x = (rng.standard_normal((2000, 16)) * np.geomspace(1, 30, 16)) @ turn + 3
    moments = jnp.asarray(x.mean(0), jnp.float32), jnp.asarray(np.cov(x.T), jnp.float32)
    fitted = fit_whitening(*moments)
    z = np.asarray(whiten(jnp.asarray(x, jnp.float16), fitted), np.float64)
    assert np.abs(z.mean(0)).max() < 1e-3
    assert np.abs(np.cov(z.T) - np.eye(16)).max() < 0.01
    kept = np.asarray(whiten(x, fit_whitening(*moments, 4, power=0.0)), np.float64)
    variances = np.linalg.eigvalsh(np.cov(x.T))[::-1]
    np.testing.assert_allclose(kept.var(0, ddof=1), variances[:4], rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: walsh_hadamard(np.ones(12)), "power of two, got 12"),
        (lambda: srht(np.ones(8), 9, 0), "1 to 8 outputs, got 9"),
        (lambda: apply_block_srht(np.ones(8), 4, 0, block=6), "block must be a power of two"),
        (lambda: apply_block_srht(np.ones(64), 2, 0, block=8), "at least 8 outputs"),
        (lambda: sketch(np.ones(4), 0, 0), "positive sizes"),
    ],
)
def test_bad_input_gets_one_line(call, says):
    with pytest.raises(UserError) as error:
        call()
    assert says in str(error.value) and "\n" not in str(error.value)
