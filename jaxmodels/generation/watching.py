"""What a token does to a model's state: how large each part is, what changes, and what is kept.

`Engine(model, watch=watch)` calls `watch` at every token; `parts_of` names what it returns.
"""

import re
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxmodels.models.language import LanguageModel
from jaxmodels.models.rnk.model import RNK
from jaxmodels.models.segments import Segmented, segments_of

TINY = 1e-12


class Part(NamedTuple):
    """A part of the state.

    Attributes:
      name: attribute path, e.g. "time wkv".
      layer: depth of its layer; None if it belongs to none.
      leaf: index among the leaves of the state.
      row: index in the leaf's second axis; None = the whole leaf.
    """

    name: str
    layer: int | None
    leaf: int
    row: int | None


def parts_of(model) -> tuple[Part, ...]:
    """Return the parts of a model's state, by layer; counters and flags are left out."""
    shapes = jax.eval_shape(lambda: model.initial_state(1))
    found = []
    for leaf, (path, x) in enumerate(jax.tree_util.tree_leaves_with_path(shapes)):
        words = re.findall(r"[A-Za-z_]\w*|\d+", jax.tree_util.keystr(path))
        name = " ".join(words)
        if isinstance(model, Segmented):
            place, name = (int(words[0]), int(words[1])), " ".join(words[2:])
            layers = _depths(model.kinds, *place)
        elif isinstance(model, LanguageModel):
            layers = range(x.shape[1])
        elif isinstance(model, RNK) and words[0] in ("mamba", "hidden", "chunk"):
            # What the open chunk has read is no memory of what was said.
            layers = () if words[0] == "chunk" else range(x.shape[1])
        else:
            found += [Part(name, None, leaf, None)] if x.size > 1 else []
            continue
        if len(layers) and x.size > x.shape[1]:
            found += [Part(name, layer, leaf, row) for row, layer in enumerate(layers)]
    return tuple(sorted(found, key=lambda part: (part.layer is None, part.layer or 0, part.leaf)))


def _depths(kinds, segment: int, place: int) -> range:
    """Return the depths of the layers at one place of the pattern of a segment."""
    segments = segments_of(kinds)
    at = sum(len(pattern) * repeats for pattern, repeats in segments[:segment])
    pattern, repeats = segments[segment]
    return range(at + place, at + len(pattern) * repeats, len(pattern))


def watch(model, before, after, out) -> dict[str, jax.Array]:
    """Return what a step has done to the state, float32.

    Args:
      model: a left-to-right model.
      before, after: its state before and after a token, leaves (S, ...).
      out: the output of that step.

    Returns:
      norm, change, kept: (S, P) for the P parts of `parts_of`: Euclidean norm after the token; norm
        of the difference over that norm; and <after, before> / <before, before>, the share of the
        old state that is still in the new one, 0 where the old one is 0. Of RNK also intent
        (S, classes), answerable (S,) and stop (S,), probabilities, and plan_norm (S,).
    """
    parts = parts_of(model)
    old, new = jax.tree.leaves(before), jax.tree.leaves(after)

    def measured(part):
        a, b = (x[part.leaf] if part.row is None else x[part.leaf][:, part.row] for x in (old, new))
        a, b = (x.reshape(len(x), -1).astype(jnp.float32) for x in (a, b))
        norm, change = jnp.linalg.norm(b, axis=-1), jnp.linalg.norm(b - a, axis=-1)
        square = jnp.sum(a * a, -1)
        kept = jnp.where(square > TINY, jnp.sum(a * b, -1) / jnp.maximum(square, TINY), 0.0)
        return norm, change / jnp.maximum(norm, TINY), kept

    columns = zip(*map(measured, parts), strict=True)
    seen = dict(zip(("norm", "change", "kept"), (jnp.stack(x, -1) for x in columns), strict=True))
    if isinstance(model, RNK):
        seen |= {
            "intent": jax.nn.softmax(out.intent, -1),
            "answerable": jax.nn.sigmoid(out.answerable),
            "stop": jax.nn.sigmoid(out.stop),
            "plan_norm": jnp.linalg.norm(after.plan, axis=-1),
        }
    return seen
