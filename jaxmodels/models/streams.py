"""Hidden states, queries, keys and values of a language model, token by token (F-02, F-30)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.attention import AttentionCell
from jaxmodels.models.language import LanguageModel

PARTS = ("queries", "keys", "values")
PLACES = (("cell", "norm_cell"), ("mixer", "norm_mixer"))  # of a layer: a cell, and its norm


@struct.dataclass
class _Read:
    """State of a layer after the tokens, and its streams by name."""

    state: Any
    seen: dict[str, jax.Array]


def streams(model: LanguageModel, state, tokens: jax.Array, reset=None):
    """Run a model and return what another model may read of it.

    Args:
      model: any language model.
      state, tokens int (B, T), reset: as for the model's call.

    Returns:
      (state after the tokens, float32 arrays (B, T, n) by name): "hidden", the normalized output of
      the last layer, and "queries", "keys" and "values" of all heads of all attention layers, if
      there are any, before the rotation by position.
    """
    xs = model.embed_tokens(tokens)
    extras = model.extras(state, xs, reset)

    def run(layer, state, xs):
        seen = {}
        for cell, norm in PLACES:
            if isinstance(attention := getattr(layer, cell, None), AttentionCell):
                parts = attention.streams(getattr(layer, norm)(xs))
                seen = dict(zip(PARTS, parts, strict=True))
        state, ys = layer(state, xs, reset, None, *extras)
        return _Read(state, seen), ys

    layers, xs = model._through(run, state, xs)
    leaf = {"is_leaf": lambda x: isinstance(x, _Read)}
    found = {"hidden": [model.norm(xs)]}
    for read in jax.tree.leaves(layers, **leaf):
        for name, x in read.seen.items():  # (B, layers, T, heads, channels)
            x = jnp.moveaxis(x, 1, 2)
            found.setdefault(name, []).append(x.reshape(*x.shape[:2], -1))
    state = jax.tree.map(lambda read: read.state, layers, **leaf)
    return state, {name: jnp.concatenate(parts, -1) for name, parts in found.items()}
