"""Filters against their definitions in float64, the draw against its distribution, and options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.errors import UserError
from jaxmodels.generation.sampling import Options, Sampling, draw, filtered, uniforms

LOGITS = np.log([0.5, 0.3, 0.15, 0.05]).astype(np.float32)
quick_draw, quick_filtered = jax.jit(draw), jax.jit(filtered)


def shares_of(logits, sampling, seen):
    """The distribution (V,) by definition, in float64, one filter after the other."""
    logits = logits.astype(np.float64)
    penalty = sampling.repetition_penalty
    logits = np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)
    if sampling.temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    logits = logits / sampling.temperature
    order = np.argsort(-logits, kind="stable")
    kept = np.ones(len(logits), bool)
    if sampling.top_k is not None:
        kept = logits >= logits[order[min(sampling.top_k, len(logits)) - 1]]

    def shares():
        weights = np.where(kept, np.exp(logits - logits.max()), 0.0)
        return weights / weights.sum()

    if sampling.top_p is not None:
        total, last = 0.0, None
        for token in order:
            if not kept[token]:
                break
            total, last = total + shares()[token], token
            if total >= sampling.top_p:
                break
        kept = kept & (logits >= logits[last])
    if sampling.min_p is not None:
        kept = kept & (shares() >= sampling.min_p * shares().max())
    return shares()


CASES = [
    Sampling(),
    Sampling(0.0),
    Sampling(0.7),
    Sampling(1.3, top_k=1),
    Sampling(1.0, top_k=7),
    Sampling(1.0, top_k=1000),
    Sampling(1.0, top_p=0.5),
    Sampling(0.9, top_p=1.0),
    Sampling(1.0, top_p=1e-6),
    Sampling(1.1, min_p=0.2),
    Sampling(1.0, min_p=1.0),
    Sampling(1.0, repetition_penalty=1.7),
    Sampling(0.0, repetition_penalty=1e6),
    Sampling(1.0, repetition_penalty=0.5),
    Sampling(0.8, 20, 0.8, 0.02, 1.3),
]


@pytest.mark.parametrize("seed", range(4))
def test_rows_of_different_options_equal_the_definition(seed):
    rng = np.random.default_rng(seed)
    logits = (3 * rng.normal(size=(len(CASES), 50))).astype(np.float32)
    logits[:, 3] = logits[:, 4]  # ties are kept
    seen = rng.random(logits.shape) < 0.3
    result = np.asarray(jax.nn.softmax(quick_filtered(logits, Options.rows(CASES), seen), -1))
    for row, sampling in enumerate(CASES):
        expected = shares_of(logits[row], sampling, seen[row])
        if sampling.temperature == 0:
            tokens = quick_draw(logits, Options.rows(CASES), seen, np.zeros(len(CASES), np.float32))
            assert expected[tokens[row]] == 1
            continue
        np.testing.assert_array_equal(result[row] > 0, expected > 0, err_msg=str(sampling))
        np.testing.assert_allclose(result[row], expected, rtol=1e-5, err_msg=str(sampling))


def test_a_row_depends_on_its_options_alone():
    rng = np.random.default_rng(0)
    logits = np.tile(rng.normal(size=50).astype(np.float32), (len(CASES), 1))
    seen, uniform = np.zeros(logits.shape, bool), np.full(len(CASES), 0.7, np.float32)
    together = quick_draw(logits, Options.rows(CASES), seen, uniform)
    for row, sampling in enumerate(CASES):
        alone = quick_draw(logits, Options.rows([sampling] * len(CASES)), seen, uniform)
        assert alone[0] == together[row]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(2.0), Sampling(1.0, top_k=3)])
def test_drawn_tokens_have_their_shares(sampling):
    count = 4000
    seeds, numbers = np.zeros(count, np.uint32), np.arange(count, dtype=np.int32)
    uniform = jax.jit(uniforms)(seeds, numbers)
    logits, seen = np.tile(LOGITS, (count, 1)), np.zeros((count, 4), bool)
    tokens = quick_draw(logits, Options.rows([sampling] * count), seen, uniform)
    expected = count * shares_of(LOGITS, sampling, np.zeros(4, bool))
    observed = np.bincount(tokens, minlength=4)
    assert not observed[expected == 0].any()
    real = expected > 0
    # Chi-square: below 21 with probability 0.9999 or more at three degrees of freedom.
    assert ((observed - expected)[real] ** 2 / expected[real]).sum() < 21


def test_numbers_depend_on_seed_and_count_alone():
    quick = jax.jit(uniforms)
    seeds = np.array([0, 1, 2**32 - 1, 7], np.uint32)
    counts = np.array([5, 0, 2**30, 5], np.int32)
    together = quick(seeds, counts)
    for order in ([3, 2, 1, 0], [1, 1, 1, 1]):
        np.testing.assert_array_equal(quick(seeds[order], counts[order]), together[np.array(order)])
    assert len(set(together.tolist())) == 4
    many = quick(np.full(4, 3, np.uint32), np.arange(4, dtype=np.int32))
    assert len(set(many.tolist())) == 4 and (many >= 0).all() and (many < 1).all()


def test_tokens_that_are_not_allowed_are_never_drawn():
    logits = jnp.where(jnp.arange(8) % 2 == 0, -jnp.inf, 0.0)
    edges = np.array([0.0, 0.25, 0.5, 0.75, np.nextafter(1, 0, dtype=np.float32)], np.float32)
    rows = Options.rows([Sampling(1.0)] * 5)
    tokens = quick_draw(jnp.tile(logits, (5, 1)), rows, np.zeros((5, 8), bool), edges)
    assert tokens.tolist() == [1, 3, 5, 7, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(temperature=-1.0), "temperature=-1.0"),
        (dict(temperature=float("nan")), "temperature=nan"),
        (dict(temperature=float("inf")), "temperature=inf"),
        (dict(top_k=0), "top-k=0"),
        (dict(top_p=1.5), "top-p=1.5"),
        (dict(top_p=0.0), "top-p=0.0"),
        (dict(min_p=-0.1), "min-p=-0.1"),
        (dict(repetition_penalty=0.0), "repetition-penalty=0.0"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=message):
        Sampling(**options)
