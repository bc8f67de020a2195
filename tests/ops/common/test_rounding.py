"""Stochastic rounding to float16: unbiased, exact where it can be, a function of counters."""

import jax.numpy as jnp
import numpy as np

from jaxmodels.ops.common.rounding import random_bits, stochastic_round


def bits(shape, update=0, stream=0):
    return random_bits(shape, jnp.int32(update), stream)


def test_float16_values_are_kept_and_others_go_to_a_neighbour():
    kept = np.arange(65536, dtype=np.uint16).view(np.float16)
    kept = kept[np.isfinite(kept)].astype(np.float32)
    for update in range(4):
        np.testing.assert_array_equal(stochastic_round(kept, bits(kept.shape, update)), kept)
    x = (
        np.random.default_rng(0).standard_normal(10_000).astype(np.float32)
        * 10.0 ** np.arange(-9, 1)[np.arange(10_000) % 10]
    )
    got = np.asarray(stochastic_round(x, bits(x.shape)), np.float64)
    nearest = x.astype(np.float16)
    step = np.spacing(np.maximum(np.abs(nearest), np.float16(2**-14))).astype(np.float64)
    assert (np.abs(got - x) < step).all()


def test_mean_is_exact_where_rounding_to_nearest_is_off():
    """An update of 1e-6 at 0.05, where float16 has steps of 3.05e-5 (F-10)."""
    value = np.float32(np.float16(0.05))
    x = np.full(400_000, value + np.float32(1e-6))
    assert (x.astype(np.float16) == np.float16(value)).all()  # swallowed
    gain = np.asarray(stochastic_round(x, bits(x.shape)), np.float64).mean() - float(value)
    assert abs(gain / 1e-6 - 1) < 0.05
    small = np.full(400_000, np.float32(1e-8))  # a sixth of the least float16
    mean = np.asarray(stochastic_round(small, bits(small.shape)), np.float64).mean()
    assert abs(mean / 1e-8 - 1) < 0.05


def test_a_thousand_small_updates_add_up():
    x, nearest = jnp.full(4096, 0.05, jnp.float16), jnp.full(4096, 0.05, jnp.float16)
    for update in range(1000):
        x = stochastic_round(x.astype(jnp.float32) - 1e-6, bits(x.shape, update))
        nearest = (nearest.astype(jnp.float32) - 1e-6).astype(jnp.float16)
    assert float(nearest[0]) == float(np.float16(0.05))
    assert abs(float(x.astype(jnp.float32).mean()) - (float(np.float16(0.05)) - 1e-3)) < 2e-5


def test_range_and_nan():
    x = np.float32([1e6, -1e6, np.inf, 65504.0, np.nan])
    got = np.asarray(stochastic_round(x, bits(x.shape)))
    np.testing.assert_array_equal(got, np.float16([65504, -65504, 65504, 65504, np.nan]))


def test_bits_depend_on_place_counter_and_stream():
    base = np.asarray(bits((64, 32)))
    np.testing.assert_array_equal(base, bits((64, 32)))
    for other in (bits((64, 32), 1), bits((64, 32), 0, 1)):
        assert (np.asarray(other) == base).mean() < 0.01
    assert abs((base >> 31).mean() - 0.5) < 0.05 and len(np.unique(base)) == base.size
