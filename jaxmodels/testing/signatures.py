"""Promises about the arguments of a cell: which it takes, which it refuses, and that none may be
empty; little is compiled."""

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.testing.lab import (
    BATCH,
    Broken,
    gradients,
    need,
    quick_jit,
    run_form,
    same_bits,
)
from jaxmodels.testing.leaves import floats_of, is_float
from jaxmodels.tree import flatten

TIME = 6
# Method -> its arguments, and those that may be left out.
METHODS = {
    "initial_state": (("batch_size",), ()),
    "step": (("state", "x"), ("key",)),
    "scan": (("state", "xs"), ("reset", "key")),
    "__call__": (("state", "xs"), ("reset", "key")),
}


def signatures(lab) -> str:
    """Check what all other promises need: methods with these arguments, a state of arrays."""
    cell = lab.cell
    for name, (given, optional) in METHODS.items():
        _takes(getattr(type(cell), name), name, given, optional)
    state, returned = cell.initial_state(BATCH), []
    _of_arrays(state, "initial_state returns")

    def step(state, x):
        returned.append(cell.step(state, x))

    try:
        jax.eval_shape(step, state, _zeros(BATCH, lab.config.width))
    except Exception:  # another promise says what was raised
        return "initial_state"
    (pair,) = returned
    is_pair = isinstance(pair, tuple) and len(pair) == 2
    need(is_pair, f"step returns a {type(pair).__name__}, should be the pair (state, y)")
    _of_arrays(pair[0], "step returns, as state,")
    return ", ".join(METHODS)


def _takes(method, name: str, given: tuple, optional: tuple) -> None:
    """Raise Broken unless the method can be called with these arguments, by place and by name."""
    try:
        signature = inspect.signature(inspect.unwrap(method))  # without `hold`, which is added
    except (TypeError, ValueError):  # not written in Python
        return
    for by_place, by_name in (((), {}), (optional, {}), ((), dict.fromkeys(optional))):
        try:
            signature.bind("self", *given, *by_place, **by_name)
        except TypeError as error:
            wanted = ", ".join(("self", *given, *(f"{word}=None" for word in optional)))
            raise Broken(f"{name}{signature} should be {name}({wanted}): {error}") from error


def _of_arrays(state, what: str) -> None:
    for name, leaf in flatten(state, ".").items():
        if hasattr(leaf, "dtype") and hasattr(leaf, "shape"):
            continue
        kind, place = type(leaf).__name__, f" in {name}" if name else ""
        if dataclasses.is_dataclass(leaf):
            fix = "a plain dataclass; decorate it with flax.struct.dataclass"
        elif isinstance(leaf, int | float):
            fix = "a Python number; make it a float32 array (batch, ...)"
        else:
            fix = "no pytree; make it a flax.struct.dataclass, a NamedTuple or a dict of arrays"
        raise Broken(f"{what} a {kind}{place}, {fix}")


def wrong_shapes(lab) -> str:
    """Check that arguments of a wrong shape are refused before they are broadcast."""
    width = lab.config.width
    state, one = (jax.eval_shape(lambda n=n: lab.cell.initial_state(n)) for n in (BATCH, 1))
    xs, x = _zeros(BATCH, TIME, width), _zeros(BATCH, width)
    taken = []
    resets = [_zeros(*shape, dtype=bool) for shape in ((BATCH, 1), (TIME,), (1, TIME))]
    resets += [_zeros(BATCH, TIME), _zeros(BATCH, TIME, dtype=jnp.int32)]
    narrow = width > 1  # else it is right
    for form in lab.forms:
        run = lab.cell.scan if form == "scan" else lab.cell
        cases = [(state, xs, reset) for reset in resets]
        cases += [(state, _zeros(BATCH, TIME, n), None) for n in (1, width + 1)[not narrow :]]
        cases += [(state, x, None)] + ([(one, xs, None)] if jax.tree.leaves(one) else [])
        taken += [_refusal(form, run, case) for case in cases]
    cases = [(state, _zeros(BATCH, n)) for n in (1, width + 1)[not narrow :]]
    cases += [(state, xs)] + ([(one, x)] if jax.tree.leaves(one) else [])
    taken += [_refusal("step", lab.cell.step, case) for case in cases]
    count, taken = len(taken), [problem for problem in taken if problem]
    need(not taken, f"{'; '.join(taken[:3])} ({len(taken)} of {count})")
    return f"{count} refused"


def _refusal(name: str, run, case) -> str:
    """Return "" if the call raises a UserError, else what it did."""
    state, xs, *reset = case
    rows = jax.tree.leaves(state)[0].shape[0] if jax.tree.leaves(state) else 0
    what = f"{name} with state of {rows} rows, xs {xs.shape}"
    if reset and reset[0] is not None:
        what = f"{name} with reset {reset[0].shape} {reset[0].dtype} of xs {xs.shape}"
    try:
        jax.eval_shape(run, *case)
    except UserError:
        return ""
    except Exception as error:
        return f"{what} raises {type(error).__name__}, should be a UserError"
    return f"{what} is taken, should be a UserError"


def nothing_to_read(lab) -> str:
    """Check sequences of no tokens, and batches of no rows, and their gradients."""
    width = lab.config.width
    y = jax.eval_shape(lab.cell.step, lab.cell.initial_state(BATCH), _zeros(BATCH, width))[1]
    for form in lab.forms:
        for rows, time in ((BATCH, 0), (0, TIME)):
            state = jax.eval_shape(lambda rows=rows: lab.cell.initial_state(rows))
            xs, d_ys = _zeros(rows, time, width), _zeros(rows, time, *y.shape[1:])
            back = functools.partial(_back, form)
            reset = _zeros(rows, time, dtype=bool) if rows else None
            what, d_out = f"{form} of {rows} rows, {time} tokens", (floats_of(state), d_ys)
            (last, ys), _ = jax.eval_shape(back, lab.cell, state, xs, reset, d_out)
            need(ys.shape == d_ys.shape, f"{what} gives ys {ys.shape}, not {d_ys.shape}")
            need(_shapes(last) == _shapes(state), f"{what} returns a state of another shape")
        initial = jax.device_get(lab.cell.initial_state(BATCH))
        state = jax.tree.map(lambda x: x + 1 if is_float(x) else x, initial)
        empty = np.zeros((BATCH, 0, width), np.float32), np.zeros((BATCH, 0), bool)
        run = quick_jit(run_form, static_argnums=0)
        last, _ = jax.device_get(run(form, lab.cell, state, *empty))
        need(same_bits(last, state), f"{form} of no tokens changes the state")
    return "no tokens: the state as it was; no rows: none"


def _back(form, cell, state, xs, reset, d_out):
    return gradients(lambda *args: run_form(form, *args, reset))(cell, state, xs, d_out)


def _zeros(*shape: int, dtype=jnp.float32) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, dtype)


def _shapes(tree):
    return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)
