"""Helpers of the tests of `jaxmodels.convert`."""

import functools
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels import UserError, convert
from jaxmodels.convert import blinkdl
from jaxmodels.convert.rows import leaves_of
from jaxmodels.convert.tensors import Tensors
from tests.convert import blinkdl_numpy

ROOT = Path(__file__).parents[2]
GOLDENS = ROOT / "tests" / "goldens"
DATA = Path(os.environ.get("JAXMODELS_TEST_DATA", ROOT.parent / "shared" / "data"))


@functools.cache
def rwkv_model(version: int):
    """Return a small RWKV with random weights, from tensors under BlinkDL's names."""
    return blinkdl.from_tensors(Tensors(Path("memory"), blinkdl_numpy.random_tensors(version)))


def by_call(model, tokens):
    """Return (state, logits (B, T, vocab)) of one call on tokens (B, T)."""
    run = jax.jit(lambda model, tokens: model(model.initial_state(len(tokens)), tokens))
    state, out = run(model, jnp.asarray(tokens))
    return state, np.asarray(out.logits)


def by_step(model, tokens):
    """Return (state, logits (B, T, vocab)) of one step per token."""
    step = jax.jit(lambda model, state, token: model.step(state, token))
    state, logits = model.initial_state(len(tokens)), []
    for token in np.asarray(tokens).T:
        state, out = step(model, state, jnp.asarray(token))
        logits.append(np.asarray(out.logits))
    return state, np.stack(logits, 1)


def assert_same_bits(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Assert equal names, dtypes, shapes and bytes."""
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def weights(model) -> dict[str, np.ndarray]:
    """{name of the leaf: array}."""
    return {name: np.asarray(leaf) for name, leaf in leaves_of(model).items()}


def assert_refused(path, *words):
    """Assert that loading raises a one-line UserError with the path and these words."""
    with pytest.raises(UserError) as caught:
        convert.load(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    for word in words:
        assert word in message, message
