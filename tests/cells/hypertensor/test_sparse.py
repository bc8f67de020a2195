"""Products of chosen tensors: loops over slices, as on a CPU, and gathers, against NumPy."""

import functools

import numpy as np
import pytest

from jaxmodels.cells.hypertensor import sparse
from jaxmodels.testing.lab import quick_jit

B, N, K, V = 11, 9, 6, 13


def drawn(chosen=K, one_sided=False, seed=0):
    rng = np.random.default_rng(seed)
    columns = rng.standard_normal((N, 3, V)).astype(np.float16)
    index = np.stack([rng.choice(N, chosen, replace=False) for _ in range(B)]).astype(np.int32)
    weights = rng.standard_normal((2, 3, B, chosen)).astype(np.float32)
    if one_sided:
        side = rng.integers(0, 2, (B, chosen))
        weights[:, 0] *= side
        weights[:, 2] *= 1 - side
        weights[:, :, 0, 0] = 0.0  # beyond its bands a tensor has no slope
    return columns, index, weights, rng.standard_normal((B, V)).astype(np.float32)


@pytest.mark.parametrize(("chosen", "one_sided"), [(6, False), (8, True), (5, True)])
def test_mixtures_and_responses_of_both_forms_are_exact(chosen, one_sided):
    columns, index, weights, g = drawn(chosen, one_sided)
    used = 2 if one_sided else None
    picked = columns[index].astype(np.float64)  # (B, K, 3, V)
    mixed = np.einsum("abk,bkav->bv", weights[0], picked)
    heard = np.einsum("nabk,bkav,bv->nbk", weights, picked, g)
    form = functools.partial(sparse.mix, used=used)
    np.testing.assert_allclose(quick_jit(form)(columns, weights[0], index), mixed, atol=1e-5)
    form = functools.partial(sparse.respond, used=used)
    np.testing.assert_allclose(quick_jit(form)(columns, weights, g, index), heard, atol=1e-5)
    by_row = np.moveaxis(weights, 2, 0)
    got = quick_jit(sparse._mix_gathered)(columns, by_row[:, 0], index)
    np.testing.assert_allclose(got, mixed, atol=1e-5)
    got = quick_jit(sparse._respond_gathered)(columns, by_row, g, index)
    np.testing.assert_allclose(np.moveaxis(np.asarray(got), 1, 0), heard, atol=1e-5)


@pytest.mark.parametrize("weightless", [0.0, 0.8, 1.0])
def test_sums_by_tensor_are_exact_whoever_answers(weightless):
    """More inputs than a group holds for some tensors, none for others."""
    _, index, weights, rows = drawn()
    index = np.minimum(index, 7)  # tensor 8 answers nobody, 7 twice in some rows
    weights = np.where(np.random.default_rng(1).random((B, K)) < weightless, 0.0, weights[0])
    weights = weights.astype(np.float32)
    want = np.zeros((N, 3, V))
    for b in range(B):
        for k in range(K):
            want[index[b, k]] += weights[:, b, k, None].astype(np.float64) * rows[b]
    for form in (functools.partial(sparse.sum_by_tensor, tensors=N), scattered):
        got = quick_jit(form)(weights, rows, index)
        np.testing.assert_allclose(got, want, atol=1e-5)


def scattered(weights, rows, index):
    return sparse._sum_scattered(N, weights, rows, index)
