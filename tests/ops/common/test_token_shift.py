"""`token_mix` against its formula: values and gradients."""

import jax
import numpy as np
import pytest

from jaxmodels.ops.common.token_shift import token_mix
from jaxmodels.testing.lab import quick_jit


@pytest.mark.parametrize("shape", [(3,), (2, 7)])
def test_values_and_gradients(shape):
    rng = np.random.default_rng(0)
    x, before = rng.standard_normal((2, *shape, 5), np.float32)
    mix = rng.random((4, 5), np.float32)
    cotangents = tuple(rng.standard_normal((4, *shape, 5), np.float32))

    def formula(x, before, mix):
        rows = mix.reshape(4, *[1] * len(shape), 5)
        return tuple(x + (before - x) * mu for mu in rows)

    def both(x, before, mix, form):
        out, back = jax.vjp(form, x, before, mix)
        return out, back(cotangents)

    got, want = (quick_jit(both, static_argnums=3)(x, before, mix, f) for f in (token_mix, formula))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-6)  # sums of up to 14 terms
