"""Checks of shapes, dtypes and ids of arguments, in words."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.ragged import hold_after

KINDS = {"bool": jnp.bool_, "floating": jnp.floating, "int": jnp.integer}
_KNOWN: dict[Any, Any] = {}


def check_ragged(ragged: dict, lead: tuple[int, ...]) -> None:
    """Raise UserError unless `hold` is bool (*lead) or `lengths` int (batch,) within the time."""
    if len(ragged) == 2:
        raise UserError("hold and lengths: give one; lengths is hold for padding on the right")
    if "hold" in ragged:
        check_axes("hold", ragged["hold"], "bool", lead)
    if (lengths := ragged.get("lengths")) is None:
        return
    if len(lead) == 1:
        raise UserError("lengths: a step reads one token; give hold, bool (batch,)")
    check_axes("lengths", lengths, "int", lead[:1])
    if is_known(lengths) and lengths.size and isinstance(lead[1], int):
        known = np.asarray(lengths)  # a layer may be traced where the lengths are not
        least, most = int(known.min()), int(known.max())
        if least < 0 or most > lead[1]:
            wrong = least if least < 0 else most
            raise UserError(f"lengths: {wrong} is not a number of tokens from 0 to {lead[1]}")


def hold_of(ragged: dict, time: int) -> jax.Array:
    """Return `hold`, or that of `lengths` within a time."""
    return ragged["hold"] if "hold" in ragged else hold_after(ragged["lengths"], time)


def lead_of(cell, xs, axes: int, free: bool) -> tuple[int, ...]:
    """Check xs and return its leading axes, (batch,) in `step`, else (batch, time)."""
    name, expected = ("xs", "batch, time") if axes == 2 else ("x", "batch")
    leaves = jax.tree.leaves(xs)
    if not free:
        width = getattr(getattr(cell, "config", None), "width", None)
        shape = leaves[0].shape if len(leaves) == 1 else ()
        if len(shape) != axes + 1 or width not in (None, shape[-1]):
            words = f"({expected}, {'width' if width is None else width})"
            raise UserError(f"{name} must have shape {words}, got {_described(xs)}")
        if not jnp.issubdtype(leaves[0].dtype, jnp.floating):
            raise UserError(f"{name} must be floating-point, got {_described(xs)}")
    leads = {x.shape[:axes] for x in leaves}
    if len(leads) != 1:
        raise UserError(f"{name}: its arrays must agree in ({expected})")
    return leads.pop()


def check_ids(model, name: str, tokens, axes: int, ragged=None) -> tuple[int, ...]:
    """Check token ids and return their shape. Traced ids out of the vocabulary embed as NaN.

    ragged: {"hold" or "lengths": array}; held places may contain any number.
    """
    words = "(batch, time)" if axes == 2 else "(batch,)"
    shape = getattr(tokens, "shape", ())
    if len(shape) != axes or not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise UserError(f"{name} must be int {words}, got {_described(tokens)}")
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None or 0 in shape or not is_known(tokens):
        return shape
    ids = np.asarray(tokens)
    if ragged:
        check_ragged(ragged, shape)
        hold = hold_of(ragged, shape[-1])
        if not is_known(hold):
            return shape
        ids = ids[~np.asarray(hold)]
        if not ids.size:
            return shape
    check_range(name, ids, size, "vocabulary")
    return shape


def check_range(name: str, ids, size: int, what: str) -> None:
    """Raise UserError for an id below 0 or not below `size`, if the ids can be seen."""
    if 0 in ids.shape or not is_known(ids):
        return
    ids = np.asarray(ids)
    least, most = int(ids.min()), int(ids.max())
    if least < 0 or most >= size:
        wrong = least if least < 0 else most
        raise UserError(f"{name}: id {wrong} is outside the {what}, 0 to {size - 1}")


def check_targets(model, batch) -> None:
    """Check the range of the targets that count; others may be -100, say."""
    arrays = batch["targets"], batch["weights"]
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    if size is not None and all(map(is_known, arrays)):
        targets, weights = map(np.asarray, arrays)
        check_range("batch['targets']", targets[weights > 0], size, "vocabulary")


def is_known(x) -> bool:
    """Return whether the values of an array can be looked at."""
    return not isinstance(x, jax.core.Tracer) and getattr(x, "is_fully_addressable", True)


def check_state(cell, state, batch: int) -> None:
    """Raise UserError unless the state has the structure, shapes and dtypes of the initial one."""
    check_like("state", state, *_initial(cell, batch), f"initial_state({batch})")


def check_like(name: str, given, expected: list, structure, of: str) -> None:
    """Raise UserError unless a tree has this structure, and leaves of these shapes and dtypes."""
    if jax.tree.structure(given) != structure:
        kind = type(jax.tree.unflatten(structure, expected)).__name__
        raise UserError(
            f"{name} must be what {of} returns, a {kind}; "
            f"got {type(given).__name__}, or other fields in it"
        )
    for (path, x), want in zip(jax.tree.leaves_with_path(given), expected, strict=True):
        if (x.shape, x.dtype) != (want.shape, want.dtype):
            leaf = name + jax.tree_util.keystr(path)
            raise UserError(f"{leaf} must be {_described(want)}, got {_described(x)}")


def check_axes(name: str, x, kind: str, lead: tuple[int, ...], more: int = 0) -> None:
    """Raise UserError unless x has the leading axes, `more` further ones, and a dtype of `kind`."""
    shape = getattr(x, "shape", ())  # a list has none
    fits = shape[: len(lead)] == lead and len(shape) == len(lead) + more
    if fits and (kind == "real" or jnp.issubdtype(x.dtype, KINDS[kind])):
        return
    words = _tuple((*lead, *("width",) * more))
    raise UserError(f"{name} must be {kind} {words}, got {_described(x)}")


def _initial(cell, batch: int):
    """Return the leaves (shapes and dtypes) and the structure of `cell.initial_state(batch)`."""
    leaves, structure = jax.tree.flatten(cell)
    try:
        # Not by the config: layers of different kinds may share one.
        key = (structure, tuple((x.shape, str(x.dtype)) for x in leaves), batch)
        known = _KNOWN.get(key)
    except TypeError:  # a static attribute that cannot be hashed
        key = known = None
    if known is None:
        known = jax.tree.flatten(jax.eval_shape(lambda: cell.initial_state(batch)))
        if key is not None:
            if len(_KNOWN) >= 1024:
                _KNOWN.clear()
            _KNOWN[key] = known
    return known


def _described(x) -> str:
    if not hasattr(x, "shape"):
        return type(x).__name__
    return f"{x.dtype} {_tuple(x.shape)}"


def _tuple(sizes) -> str:
    return f"({', '.join(map(str, sizes))}{',' if len(sizes) == 1 else ''})"
