"""What another model may read of a language model: hidden states, queries, keys and values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.models.language import layer_of
from jaxmodels.models.streams import streams
from jaxmodels.testing.lab import quick_jit

SMALL = {"vocab_size": 11, "width": 16, "num_layers": 2}
MODELS = {  # sizes of queries, and of keys and values
    "transformer": ({"head_size": 4, "kv_heads": 2, "window": 5}, (2 * 16, 2 * 8)),
    "groundthink": ({"num_layers": 3, "attention_layers": (1,)}, (16, 16)),
    "rwkv": ({"version": 7}, None),
}


@pytest.mark.parametrize("name", MODELS)
def test_streams_are_those_of_the_call(name):
    changes, sizes = MODELS[name]
    model = jaxmodels.create(name, seed=0, **(SMALL | changes))
    rng = np.random.default_rng(0)
    tokens, reset = rng.integers(0, 11, (2, 2, 7)), np.zeros((2, 7), bool)
    reset[1, 3] = True
    state, want = model.initial_state(2), None
    for part in jnp.asarray(tokens):  # the second part continues the first
        before = state
        state, found = quick_jit(streams)(model, before, part, reset)
        after, want = quick_jit(lambda m, s, t: m.hidden(s, t, reset))(model, before, part)
        np.testing.assert_allclose(found["hidden"], want, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), state, after)
    got = {name: x.shape[-1] for name, x in found.items() if name != "hidden"}
    assert got == ({} if sizes is None else dict(queries=sizes[0], keys=sizes[1], values=sizes[1]))


def test_streams_of_a_layer_are_products_with_its_normed_input():
    model = jaxmodels.create("transformer", seed=0, **SMALL, head_size=4, kv_heads=2)
    tokens = jnp.arange(6)[None]
    _, found = streams(model, model.initial_state(1), tokens)
    x = model.embed_tokens(tokens)
    for i in range(2):
        layer = layer_of(model.layers, i)
        normed = layer.norm_cell(x)
        for name, linear in (("queries", "query"), ("keys", "key"), ("values", "value")):
            want = np.asarray(getattr(layer.cell, linear)(normed, "float32"))
            size = want.shape[-1]
            np.testing.assert_allclose(
                found[name][..., i * size : (i + 1) * size], want, rtol=1e-5, atol=1e-6
            )
        _, x = layer(layer.initial_state(1), x)
