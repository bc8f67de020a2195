"""Small RNK models and batches for the tests."""

import jax
import numpy as np

import jaxmodels
from jaxmodels.cells.base import where_reset
from jaxmodels.models.rnk.config import RNKConfig
from jaxmodels.testing.lab import shaken

CHUNKINGS = {
    "fixed": {"chunking": "fixed", "chunk_size": 4},
    "space": {"chunking": "space", "chunk_size": 6, "min_chunk": 2},
    "learned": {"chunking": "learned", "chunk_size": 5, "min_chunk": 1},
}
SIZES = {"width": 16, "hidden_size": 24, "num_layers": 2, "plan_layers": 1, "plan_steps": 2}


def small_config(**fields):
    """A config that compiles in seconds."""
    return RNKConfig(**(SIZES | {"vocab_size": 256, "chunk_size": 4} | fields))


def small_model(**fields):
    """A model whose zeros, as biases, are noise."""
    return shaken(jaxmodels.create(small_config(**fields), seed=1), 0)


def text(config, batch, time, seed=0):
    """Random words with spaces; prompts, padding and ends of responses occur."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(97, 123, (batch, time), np.int32)
    tokens[rng.random((batch, time)) < 0.2] = ord(" ")
    marks = rng.random((batch, time))
    for token, share in ((config.pad, 0.08), (config.begin, 0.06), (config.end, 0.04)):
        tokens[marks < share] = token
        marks = np.where(marks < share, 1.0, marks - share)
    return tokens


def by_steps(model, state, tokens, reset=None):
    """(state, outputs stacked over time) of `model.step`, the initial state at each reset."""
    initial = model.initial_state(tokens.shape[0])
    reset = np.zeros(tokens.shape, bool) if reset is None else reset

    def body(state, inputs):
        token, reset = inputs
        return model.step(where_reset(reset, initial, state), token)

    state, out = jax.lax.scan(body, state, (tokens.T, reset.T))
    return state, jax.tree.map(lambda x: x.swapaxes(0, 1), out)
