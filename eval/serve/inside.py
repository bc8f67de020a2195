"""A look inside a model while it speaks, see `jaxmodels/generation/watching.py`."""

from typing import Any

import jax
import numpy as np

from eval.chat.guide import Guided
from jaxmodels.generation import watching
from jaxmodels.models.rnk.model import RNK


def watch(model, before, after, out) -> dict[str, jax.Array]:
    """Return what is told of a token, leaves (slots, ...); see `Engine`."""
    if isinstance(model, Guided):
        model, before, after, out = model.model, before[0], after[0], out.out
    return watching.watch(model, before, after, out)


def parts(model) -> list[dict[str, Any]]:
    """Return the name and layer of each part of the state, in the order of the numbers."""
    return [{"name": x.name, "layer": x.layer} for x in watching.parts_of(_inner(model))]


def told(model, seen: dict[str, np.ndarray], texts: list[str]) -> list[dict[str, Any]]:
    """Return what `watch` gave for the last tokens, whose texts these are, as objects of JSON."""
    inner, objects = _inner(model), []
    first = len(seen["norm"]) - len(texts)
    for place, text in enumerate(texts):
        row = {k: np.round(x[first + place].astype(float), 4).tolist() for k, x in seen.items()}
        if isinstance(inner, RNK):
            row["intent"] = dict(zip(inner.config.intents, row["intent"], strict=True))
        objects.append({"token": text} | row)
    return objects


def _inner(model):
    return model.model if isinstance(model, Guided) else model
