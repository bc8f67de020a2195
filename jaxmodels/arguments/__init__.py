"""Checks of the arguments of cells and models, before anything else is traced.

`Cell` applies `checked` to the `step`, `scan` and `__call__` of every subclass; models apply
`checked_tokens` and `checked_batch` to their own. Wrong shapes and dtypes raise UserError, also
where JAX would broadcast them without a word. Host arrays are put on the device, empty batches and
empty segments are handled here, and inside `jax.shard_map` all arguments get the same varying axes.
"""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxmodels.arguments.checks import (
    check_axes,
    check_ids,
    check_like,
    check_ragged,
    check_range,
    check_state,
    check_targets,
    lead_of,
)
from jaxmodels.errors import UserError
from jaxmodels.ops.common.varying import cast_like
from jaxmodels.ragged import hold_after, keep_held, map_tokens, to_front, without

OF_ROWS = ("identifiers", "intent", "answerable")  # fields of a batch, int (batch,)
# Further arguments of some cells: dtype kind, and number of axes after those of the tokens.
OPTIONAL = {"write": ("floating", 0), "prefix": ("bool", 0), "v_first": ("floating", 1)}


def checked(method: Callable) -> Callable:
    """Wrap a cell's method (self, state, xs, ...), which `step`, `scan` or `__call__` define.

    The wrapped method also takes `hold` and, except `step`, `lengths`; see `jaxmodels.ragged`.
    """
    signature = inspect.signature(method)
    name = method.__name__
    axes = 1 if name == "step" else 2

    @functools.wraps(method)
    def run(self, state, xs, *args, hold=None, lengths=None, **kwargs):
        ragged = {"hold": hold, "lengths": lengths}
        ragged = {name: x for name, x in ragged.items() if x is not None}
        try:
            given = signature.bind(self, state, xs, *args, **kwargs)
        except TypeError:
            return method(self, state, xs, *args, **kwargs)  # which says what is wrong
        if len(given.arguments) < 3:  # (self, *args), which passes them on
            return method(*given.args, **given.kwargs, **ragged)
        free = given.arguments.get("step") is not None  # `scan` over any tree of arrays
        lead, ragged = _admit(given, lambda xs, _: lead_of(self, xs, axes, free), OPTIONAL, ragged)
        if 0 in lead:
            return _empty(method, given, lead)
        takes = "hold" if name == "scan" else "lengths"
        known = takes in signature.parameters
        if name == "__call__" and not (isinstance(lead[1], int) and (known or not ragged)):
            return _scan(self, given, ragged)
        if not ragged:
            return method(*given.args, **given.kwargs)
        if name == "step":
            return _held_step(method, given, ragged["hold"])
        if not known:
            raise UserError(
                f"hold: {type(self).__name__}.scan does not take it; "
                "add `hold=None` and pass it to Cell.scan"
            )
        return _packed(method, given, lead, ragged, takes)

    return _shown(run, signature, ("hold",) if axes == 1 else ("hold", "lengths"))


def checked_tokens(method: Callable) -> Callable:
    """Wrap a model's `__call__` (self, state, tokens, ...) or `step` (self, state, token).

    The wrapped method also takes `hold` and, except `step`, `lengths`; see `jaxmodels.ragged`.
    """
    signature = inspect.signature(method)
    axes = 2 if method.__name__ == "__call__" else 1

    @functools.wraps(method)
    def run(self, state, tokens, *args, hold=None, lengths=None, **kwargs):
        ragged = {"hold": hold, "lengths": lengths}
        ragged = {name: x for name, x in ragged.items() if x is not None}
        given = signature.bind(self, state, tokens, *args, **kwargs)
        name = "tokens" if axes == 2 else "token"

        def lead_of(tokens, ragged):
            return check_ids(self, name, tokens, axes, ragged)

        lead, ragged = _admit(given, lead_of, {}, ragged)
        if 0 in lead:
            return _empty(method, given, lead)
        if not ragged:
            return method(*given.args, **given.kwargs)
        if axes == 1:
            return _held_step(method, given, ragged["hold"])
        if "lengths" not in signature.parameters:
            raise UserError(
                f"{next(iter(ragged))}: {type(self).__name__} does not take it; "
                "add `lengths=None` to its __call__ and pass it to its cells"
            )
        return _packed(method, given, lead, ragged, "lengths")

    return _shown(run, signature, ("hold",) if axes == 1 else ("hold", "lengths"))


def checked_batch(method: Callable) -> Callable:
    """Wrap a model's `loss_sums` (self, state, batch, ...); see `models/contract.py`."""

    @functools.wraps(method)
    def run(self, state, batch, *args, **kwargs):
        missing = [name for name in ("inputs", "targets", "weights") if name not in batch]
        if missing:
            raise UserError(f"batch: field {missing[0]!r} is missing")
        lead = check_ids(self, "batch['inputs']", batch["inputs"], 2)
        for name, kind in (("targets", "int"), ("weights", "real"), ("reset", "bool")):
            if batch.get(name) is not None:
                check_axes(f"batch[{name!r}]", batch[name], kind, lead)
        for name in OF_ROWS:
            if batch.get(name) is not None:
                check_axes(f"batch[{name!r}]", batch[name], "int", lead[:1])
        check_targets(self, batch)
        check_state(self, state, lead[0])
        return method(self, state, batch, *args, **kwargs)

    return run


def checked_rows(method: Callable) -> Callable:
    """Wrap a method of a model that reads rows as a whole: `tokens`, and of these what it has.

    `thoughts`, which are None or like `initial_carry(batch, time)`; `identifiers` below
    `config.puzzle_ids` and `lengths`, both None or int (batch,).
    """
    signature = inspect.signature(method)

    @functools.wraps(method)
    def run(*args, **kwargs):
        given = signature.bind(*args, **kwargs)
        values, model = given.arguments, args[0]
        names = [
            name for name in ("tokens", "thoughts", "identifiers", "lengths") if name in values
        ]
        values.update(_on_device({name: values[name] for name in names}))
        lead = check_ids(model, "tokens", values["tokens"], 2)
        if values.get("thoughts") is not None:
            initial = jax.eval_shape(lambda: model.initial_carry(*lead))
            of = f"initial_carry({lead[0]}, {lead[1]})"
            check_like("thoughts", values["thoughts"], *jax.tree.flatten(initial), of)
        for name in ("identifiers", "lengths"):
            if values.get(name) is not None:
                check_axes(name, values[name], "int", lead[:1])
        if values.get("identifiers") is not None and model.config.puzzle_ids:
            check_range("identifiers", values["identifiers"], model.config.puzzle_ids, "puzzles")
        return method(*given.args, **given.kwargs)

    return run


def _admit(given: inspect.BoundArguments, lead_of: Callable, optional: dict, ragged: dict):
    """Check the bound arguments (self, state, xs, ...), bring them into form.

    Returns:
      (the lead, (batch,) or (batch, time); `ragged`, {"hold" or "lengths": array}, in form).
    """
    values = given.arguments
    model, state, xs, *names = list(values)
    if values.get("hold") is not None or values.get("lengths") is not None:  # given by place
        ragged |= {name: values.pop(name) for name in ("hold", "lengths") if name in values}
    more = {name: values[name] for name in ("reset", *optional) if name in names}
    inputs, arrays, more, ragged = _on_device((values[xs], values[state], more, ragged))
    lead = lead_of(inputs, ragged)
    check_state(values[model], arrays, lead[0])
    for name, x in more.items():
        if x is not None:
            kind, own = optional.get(name, ("bool", 0))
            check_axes(name, x, kind, lead, own)
    check_ragged(ragged, lead)
    arrays, inputs, more, ragged = cast_like((arrays, inputs, more, ragged), values[model])
    values.update({state: arrays, xs: inputs, **more})
    return lead, ragged


def _held_step(method, given, hold):
    """Run a step; rows that are held keep their state, and their output is 0."""
    values = given.arguments
    _, state, *names = list(values)
    before, clear = values[state], functools.partial(without, hold)
    values.update({name: _of_tokens(values[name], hold.shape, name, clear) for name in names})
    after, y = method(*given.args, **given.kwargs)
    return keep_held(hold, before, after), map_tokens(clear, y)


def _packed(method, given, lead, ragged, takes: str):
    """Run a method that takes "hold" or "lengths" on rows with their tokens at the front."""
    values = given.arguments
    _, _, *names = list(values)
    if "hold" in ragged:
        front = to_front(ragged["hold"])
        lengths, pack, unpack = front.lengths, front.pack, front.unpack
    else:
        lengths = jnp.clip(ragged["lengths"], 0, lead[1]).astype(jnp.int32)
        pack = unpack = functools.partial(without, hold_after(lengths, lead[1]))
    values.update({name: _of_tokens(values[name], lead, name, pack) for name in names})
    values[takes] = lengths if takes == "lengths" else hold_after(lengths, lead[1])
    state, out = method(*given.args, **given.kwargs)
    return state, map_tokens(unpack, out)


def _of_tokens(value, lead, name: str, change: Callable):
    """Return an argument with its arrays (*lead, ...) changed."""

    def of(x):
        return change(x) if isinstance(x, jax.Array) and x.shape[: len(lead)] == lead else x

    return value if name in ("key", "step") else jax.tree.map(of, value)


def _shown(run: Callable, signature: inspect.Signature, names: tuple[str, ...]) -> Callable:
    """Return `run` with the signature of the method that it wraps, and these arguments."""
    known = signature.parameters
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in names
        if name not in known
    ]
    # `**fields` comes last.
    ordered = sorted([*known.values(), *more], key=lambda x: x.kind)
    run.__signature__ = signature.replace(parameters=ordered)
    return run


def _scan(cell, given: inspect.BoundArguments, ragged: dict):
    """Run the definition: for a fork that does not take `lengths`, and where the number of tokens
    is a symbol of `jax.export`, which chunks cannot have."""
    values = dict(list(given.arguments.items())[1:])
    known = inspect.signature(cell.scan).parameters
    for name, x in list(values.items()):
        if name not in known and x is None:
            del values[name]
        elif name not in known:
            why = "hold, which it does not take" if ragged else "a symbolic number of tokens"
            raise UserError(f"{name}: __call__ runs scan for {why}; scan has no {name}")
    return cell.scan(**values, **ragged)


def _on_device(tree):
    """Return the tree with arrays of the host, as `jax.device_get` returns them, as jax.Arrays."""
    return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else jnp.asarray(x), tree)


def _empty(method, given, lead):
    """Run the method on one row or token where there is none, and cut the result."""
    values, batch = given.arguments, lead[0]

    def fill(x):
        """Pad the empty leading axes of a per-token array, or of a row's, to 1."""
        if not isinstance(x, jax.Array) or jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        sizes = [lead[i] if i < len(lead) else None for i in range(x.ndim)]
        padding = [(0, int(size == 0 and x.shape[i] == 0)) for i, size in enumerate(sizes)]
        return jnp.pad(x, padding)

    cell, state_name, *_ = list(values)
    state = values[state_name]
    rows = jax.tree.map(fill, {k: v for k, v in values.items() if k not in (cell, state_name)})
    if batch == 0:
        rows[state_name] = values[cell].initial_state(1)
    given.arguments.update(rows)
    _, ys = method(*given.args, **given.kwargs)
    cut = tuple(slice(0, size) for size in lead)
    return state, jax.tree.map(lambda y: y[cut[: y.ndim]], ys)
