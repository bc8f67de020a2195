"""A look inside a model while it speaks: how its state changes with a token, and what heads say.

norm      of each layer's state after the token
change    norm of the difference that the token made, as a share of the norm
kept      share of the state before that is in the state after: <after, before> / <before, before>
heads     RNK's: probabilities of intents, of being able to answer, and of a stop; plan_norm
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from eval.chat.guide import Guided
from jaxmodels.models.rnk.model import RNK


def watch(model, before, after, out) -> dict[str, jax.Array]:
    """Return what is told of a token, leaves (slots, ...); see `Engine`."""
    if isinstance(model, Guided):
        model, before, after, out = model.model, before[0], after[0], out.out
    seen = {}
    if isinstance(model, RNK):
        seen["intent"] = jax.nn.softmax(out.intent, -1)
        seen["answerable"] = jax.nn.sigmoid(out.answerable)
        seen["stop"] = jax.nn.sigmoid(out.stop)
        seen["plan_norm"] = jnp.linalg.norm(after.plan, axis=-1)
        before, after = before.mamba, after.mamba
    pairs = list(zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True))
    layers = getattr(getattr(model, "config", None), "num_layers", 0)
    deep = [pair for pair in pairs if pair[0].ndim > 2 and pair[0].shape[1] == layers]
    old, new, both, moved = (
        sum(_by_layer(function(x, y), bool(deep)) for x, y in deep or pairs)
        for function in (
            lambda x, y: x * x,
            lambda x, y: y * y,
            lambda x, y: x * y,
            lambda x, y: (y - x) ** 2,
        )
    )
    norm = jnp.sqrt(new)
    seen["norm"] = norm
    seen["change"] = jnp.sqrt(moved) / jnp.maximum(norm, 1e-30)
    seen["kept"] = both / jnp.maximum(old, 1e-30)
    return seen


def _by_layer(x, deep: bool):
    """Sum over all axes but rows and layers: (slots, layers, ...) -> (slots, layers or 1)."""
    x = x if deep else x.reshape(len(x), 1, -1)
    return jnp.sum(x, axis=tuple(range(2, x.ndim)))


def told(model, seen: dict[str, np.ndarray], count: int) -> list[dict[str, Any]]:
    """Return what `watch` gave for the last `count` tokens as objects of JSON."""
    inner = model.model if isinstance(model, Guided) else model
    names = inner.config.intents if isinstance(inner, RNK) else ()
    objects = []
    for place in range(len(seen["norm"]) - count, len(seen["norm"])):
        values = {name: np.nan_to_num(x[place].astype(float)) for name, x in seen.items()}
        row = {name: np.round(value, 4).tolist() for name, value in values.items()}
        if names:
            row["intent"] = dict(zip(names, row["intent"], strict=True))
        objects.append(row)
    return objects
