"""Promises of a cell: functions of the lab that return a line of numbers or raise Broken."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.testing.decay import slow_decays
from jaxmodels.testing.lab import (
    BATCH,
    GRADIENT_FLOOR,
    compare,
    gradients_of_all,
    need,
    quick_jit,
    same_bits,
)
from jaxmodels.testing.leaves import is_float, is_key, meaningless
from jaxmodels.testing.precision import inexact_matmuls
from jaxmodels.tree import flatten

# Relative to the largest entry of an array. Orders of summation in float32 differ by about 1e-6
# here (33 tokens); a missing or misplaced term by at least 1e-2.
VALUES = 1e-4
# Gradients are products of Jacobians over the tokens: an untrained cell amplifies rounding about a
# hundredfold (the unified cell: up to 2e-5 on the inputs chosen by `Lab.inputs`).
GRADIENTS = 1e-4
# bfloat16 has 8 bits, an error of 0.4 % per matmul that accumulates over the tokens.
BFLOAT16 = 0.25


def _parameters(lab):
    named = flatten(lab.cell, ".")
    keys = [name for name, leaf in named.items() if is_key(leaf)]
    others = [f"{n} {x.dtype}" for n, x in named.items() if not is_float(x) and n not in keys]
    wrong = [f"{n} is {x.dtype}" for n, x in named.items() if is_float(x) and x.dtype != np.float32]
    problems = [f"{', '.join(wrong)}, should be float32"] if wrong else []
    if others:
        problems.append(
            f"{', '.join(others)}: to jax.grad and the optimizer every leaf is a parameter; "
            "compute constants from the config, where they are used"
        )
    if keys:
        problems.append(
            f"{', '.join(keys)}: a PRNG key is no parameter; keep no nnx.Rngs and no nnx.Dropout, "
            "randomness comes in as `key` (cells.layers.dropout takes it)"
        )
    need(not problems, "; ".join(problems))
    return f"{len(named)} arrays, {sum(x.size for x in named.values())} scalars"


def _state(lab):
    state = lab.cell.initial_state(BATCH)
    after, _ = jax.eval_shape(lab.cell.step, state, lab.xs[:, 0])
    for when, tree in (("initial", state), ("after a step", after)):
        for name, leaf in flatten(tree, ".").items():
            need(leaf.dtype == jnp.float32, f"{name} is {leaf.dtype} ({when}), should be float32")
            shape = f"{name} has shape {leaf.shape} ({when}), should start with batch={BATCH}"
            need(leaf.ndim > 0 and leaf.shape[0] == BATCH, shape)
    one = lab.cell.initial_state(1)
    rows = jax.tree.map(lambda x: np.broadcast_to(x, (BATCH, *x.shape[1:])), one)
    need(same_bits(rows, state), "initial_state(1) is no row of initial_state of more")
    return f"{sum(x.size for x in jax.tree.leaves(one)) * 4} bytes a row"


def _shapes(lab):
    state = lab.cell.initial_state(BATCH)

    def describe(tree):
        return jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree)

    after, y = jax.eval_shape(lab.cell.step, state, lab.xs[:, 0])
    need(y.ndim == 2 and y.shape[0] == BATCH, f"step gives y {y.shape}, not (batch, width)")
    for name, run in (("scan", lab.cell.scan), ("call", lab.cell)):
        for reset in (None, lab.reset):
            last, ys = jax.eval_shape(run, state, lab.xs, reset)
            expected = (BATCH, lab.time, y.shape[1])
            need(ys.shape == expected, f"{name} gives ys {ys.shape}, should be {expected}")
            need(ys.dtype == y.dtype == jnp.float32, f"{name} gives {ys.dtype}, not float32")
            same = describe(last) == describe(after) == describe(state)
            need(same, f"{name} or step returns a state unlike initial_state")
    return f"y ({BATCH}, {y.shape[1]}) float32"


def _forms(lab, forms, resets, part):
    """Compare values (part 0) or gradients (part 1) with the reference, at every length."""
    pairs = []
    for form in forms:
        for (time, given), differentiated in lab.lengths(form).items():
            if (resets and not given) or (part and not differentiated):
                continue
            reset = (lab.reset if resets else lab.no_reset) if given else None
            got, want = lab.sequence(form, time, reset)[part], lab.stepped(time, resets)[part]
            parts = ("parameters", "initial state", "inputs") if part else ("state", "ys")
            for name, *pair in zip(parts, got, want, strict=True):
                pairs.append((f"{form}, {time} tokens, {name}", *pair))
    if not part:
        return compare(pairs, VALUES)
    note = f" (one ulp of the parameters: {lab.rounding:.0e})"
    return compare(pairs, GRADIENTS, GRADIENT_FLOOR, note)


def _call(lab, part):
    if "call" not in lab.forms:
        return "call is scan"
    times = {time for (time, _), back in lab.lengths("call").items() if back or not part}
    lengths = ", ".join(map(str, sorted(times)))
    return f"{_forms(lab, ['call'], False, part)} at {lengths} tokens"


def _resets(lab):
    values, gradients = (_forms(lab, lab.forms, True, part) for part in (0, 1))
    return f"values {values}; gradients {gradients}"


def _handoff(lab):
    """Split within a chunk, and continue with the same function and with steps."""
    form, boundary, pairs = lab.forms[-1], lab.chunk + 1, []
    (whole, ys), _ = lab.sequence(form, reset=lab.no_reset)
    given = lab.no_reset if form == "call" else None
    (half, first), _ = lab.sequence(form, boundary, given)
    pairs.append(("first part, ys", first, ys[:, :boundary]))
    if form == "call":
        xs = lab.xs[:, boundary:]
        (last, second), _ = lab.sequence(form, lab.chunk, lab.no_reset, half, xs)
        pairs += [("second part, ys", second, ys[:, boundary:]), ("state", last, whole)]
    state, second = half, []
    for t in range(boundary, lab.time):
        state, y = lab.step(lab.cell, state, lab.xs[:, t], lab.no_reset[:, t])
        second.append(y)
    pairs += [("steps, ys", np.stack(second, 1), ys[:, boundary:]), ("steps, state", state, whole)]
    return compare(pairs, VALUES)


def _fresh_start(lab):
    """Restart rows at different tokens; earlier values, even NaN, must have no effect."""
    starts = [lab.chunk, 1, 2 * lab.chunk][:BATCH]
    reset = lab.no_reset.copy()
    reset[range(BATCH), starts] = True
    after = np.arange(lab.time)[None] >= np.array(starts)[:, None]
    d_ys = lab.cotangents[1] * after[..., None]
    nan = jax.tree.map(meaningless, jax.device_get(lab.warm))
    initial = jax.device_get(lab.cell.initial_state(BATCH))
    # Within a chunk, matmuls multiply a NaN token by 0 for its neighbours, even across a reset. So
    # a row that restarts inside the first chunk has its NaN state reset before the first token.
    early = reset.copy()
    early[1, 0] = True
    other = np.where(after[..., None], lab.xs, 7.0 - lab.xs)
    pairs = []
    for form in lab.forms:
        (last, ys), gradients = lab.sequence(form, reset=reset, d_ys=d_ys)
        for what, state, xs, starting in (
            ("NaN in the state", nan, lab.xs, early),
            ("the state", initial, lab.xs, reset),
            ("inputs", lab.warm, other, reset),
        ):
            (last2, ys2), _ = lab.sequence(form, reset=starting, state=state, xs=xs)
            same = same_bits((last, ys[after]), (last2, ys2[after]))
            need(same, f"{form}: {what} before the reset shows after it")
        _, d_before, d_xs = gradients
        zero = not any(np.any(x) for x in jax.tree.leaves((d_before, d_xs[~after])))
        need(zero, f"{form}: a gradient flows back through the reset")
        for row, start in enumerate(starts):
            xs = np.concatenate([lab.xs[:, start:], lab.xs[:, :start]], 1)
            fresh = lab.cell.initial_state(BATCH)
            (_, ys2), _ = lab.sequence(form, reset=lab.no_reset, state=fresh, xs=xs)
            pairs.append((f"{form}, row {row}", ys[row, start:], ys2[row, : lab.time - start]))
    return f"nothing leaks; fresh start: {compare(pairs, VALUES)}"


def _causality(lab):
    """Check bit-exact causality with one compiled function, by large changes of the inputs."""
    places = (1, lab.chunk - 1, lab.chunk, lab.chunk + 1, lab.time - 1)
    no_state = jax.tree.map(np.zeros_like, lab.cotangents[0])
    for form in lab.forms:
        (_, ys), _ = lab.sequence(form, reset=lab.no_reset)
        for i in places:
            xs, reset = lab.xs.copy(), lab.no_reset.copy()
            xs[:, i:] = 5.0 - 3.0 * xs[:, i:]
            reset[:, i + 1 :: 2] = True
            (_, changed), _ = lab.sequence(form, reset=reset, xs=xs)
            early = np.flatnonzero((ys != changed)[:, :i].any((0, 2)))
            need(not early.size, f"{form}: inputs from {i} on change output {early[:1]}")
            need((ys != changed)[:, i].any(), f"{form}: input {i} does not change output {i}")
            d_ys = np.zeros_like(lab.cotangents[1])
            d_ys[:, i] = 1.0
            _, (_, _, d_xs) = lab.sequence(form, reset=lab.no_reset, d_state=no_state, d_ys=d_ys)
            later = np.flatnonzero(d_xs[:, i + 1 :].any((0, 2))) + i + 1
            need(not later.size, f"{form}: output {i} has a gradient to input {later[:1]}")
    return f"bit-identical before {', '.join(map(str, places))}; no gradient to the future"


def _rows(lab):
    for form in lab.forms:
        (last, ys), _ = lab.sequence(form, reset=lab.no_reset)
        xs = lab.xs.copy()
        xs[1:] = 5.0 - 3.0 * xs[1:]
        state = jax.tree.map(lambda x: np.concatenate([x[:1], x[:-1]]), jax.device_get(lab.warm))
        (last2, ys2), _ = lab.sequence(form, reset=lab.no_reset, state=state, xs=xs)
        once, twice = jax.tree.map(lambda x: x[0], ((last, ys), (last2, ys2)))
        same = same_bits(once, twice)
        need(same, f"{form}: row 0 changes with the other rows of the batch")
    return "bit-identical whatever the other rows hold"


def _gradients(lab):
    """Check gradients of the outputs alone, so that an unread state does not count as use."""
    _, (d_cell, _, _) = lab.stepped(lab.time, False, state_counts=False)
    return gradients_of_all(d_cell, lab.frozen)


def _full_precision(lab):
    """Check matmuls of step, scan, call and their gradients; with bfloat16, those left in float32.

    Functions that other promises have compiled are not traced again.
    """
    found, count = [], 0
    for form in lab.forms:
        for (time, given), differentiated in lab.lengths(form).items():
            reset = lab.reset[:, :time] if given else None
            arguments = (form, lab.cell, lab.warm, lab.xs[:, :time], reset)
            if differentiated:
                d_state, d_ys = lab.cotangents
                traced = lab.run.trace(*arguments, d_state, d_ys[:, :time])
            else:
                traced = lab.forward.trace(*arguments)
            found, count = found + inexact_matmuls(traced.jaxpr), count + 1
    first, (d_state, d_ys) = (lab.warm, lab.xs[:, 0], lab.reset[:, 0]), lab.cotangents
    others = [lab.step_back.trace(lab.cell, *first, d_state, d_ys[:, 0])]
    if lab.half:
        half, whole = lab.half.cell, (lab.warm, lab.xs, lab.reset)
        others.append(lab.half.step.trace(half, *first))
        others.append(lab.half.forward.trace(lab.forms[-1], half, *whole))
    for traced in others:
        found, count = found + inexact_matmuls(traced.jaxpr), count + 1
    need(not found, f"left to the hardware's default: {', '.join(dict.fromkeys(found))}")
    return f"Precision.HIGHEST in {count} programs"


def _bfloat16(lab):
    half = lab.half
    if half is None:
        return "config has no dtype"
    form, (d_state, d_ys) = lab.forms[-1], lab.cotangents
    arguments = {"state": lab.warm, "xs": lab.xs, "d_state": d_state, "d_ys": d_ys}
    arguments["reset"] = lab.reset
    shapes = jax.eval_shape(half.cell, lab.warm, lab.xs, lab.reset)
    for what, tree in (("parameter", half.cell), ("state", shapes[0]), ("ys", shapes[1])):
        for name, leaf in flatten(tree, ".").items():
            wrong = is_float(leaf) and leaf.dtype != jnp.float32  # other kinds: judged elsewhere
            need(not wrong, f"{what} {name} is {leaf.dtype}, should be float32")
    (last, ys), gradients = half.sequence(form, **arguments)
    for what, tree in (("state", last), ("ys", ys), ("gradient", gradients)):
        for name, leaf in flatten(tree, ".").items():
            need(np.isfinite(leaf).all(), f"{what} {name} is not finite")
    (last32, ys32), _ = lab.sequence(form, reset=lab.reset)
    return compare([("bfloat16", last, last32), ("bfloat16", ys, ys32)], BFLOAT16)


def _traces(lab):
    """Check that all states fit one compiled function: no weak types, no changing dtypes."""
    for form in lab.forms:
        (last, _), _ = lab.sequence(form, reset=lab.no_reset, state=lab.cell.initial_state(BATCH))
        lab.sequence(form, reset=lab.no_reset, state=last)
    again = [f"{name} ({count} times)" for name, count in lab.traces.items() if count > 1]
    need(not again, f"traced anew: {'; '.join(again)}")
    return f"{len(lab.traces)} functions, each traced once"


def _vmap(lab):
    """Compare a vmap over two groups of rows with separate calls."""
    time = lab.chunk + 1
    states = (jax.device_get(lab.warm), jax.device_get(lab.cell.initial_state(BATCH)))
    groups = jax.tree.map(lambda *x: np.stack(x), *states)
    xs = np.stack([lab.xs[:, :time], lab.xs[:, -time:]])
    run = quick_jit(jax.vmap(lambda cell, *args: cell(*args), (None, 0, 0)))
    last, ys = run(lab.cell, groups, xs)
    reset, pairs = None if lab.forms[-1] == "scan" else lab.no_reset, []
    for i, state in enumerate(states):
        (last1, ys1), _ = lab.sequence(lab.forms[-1], time, reset, state, xs[i])
        own = jax.tree.map(lambda x, i=i: x[i], (last, ys))
        pairs += [(f"group {i}, state", own[0], last1), (f"group {i}, ys", own[1], ys1)]
    return compare(pairs, VALUES)


def _determinism(lab):
    need(same_bits(lab.again(lab.config).cell, lab.cell), "one seed, two initializations")
    for form in lab.forms:
        once, twice = (lab.sequence(form, reset=lab.reset) for _ in range(2))
        need(same_bits(once, twice), f"{form}: the same arguments, another result")
    return "same seed, same parameters; same arguments, same bits"


PROMISES = {
    "parameters: float32": _parameters,
    "state: float32, batch first": _state,
    "shapes and dtypes": _shapes,
    "scan == step": lambda lab: _forms(lab, ["scan"], False, 0),
    "call == step": lambda lab: _call(lab, 0),
    "gradients: scan == step": lambda lab: _forms(lab, ["scan"], False, 1),
    "gradients: call == step": lambda lab: _call(lab, 1),
    "random resets": _resets,
    "handoff f(A+B) == f(A); f(B)": _handoff,
    "reset == fresh start": _fresh_start,
    "causality": _causality,
    "rows are independent": _rows,
    "every parameter has a gradient": _gradients,
    "float32 matmuls: full precision": _full_precision,
    "bfloat16 compute, float32 state": _bfloat16,
    "slow decays survive bfloat16": slow_decays,
    "vmap": _vmap,
    "one trace a shape": _traces,
    "determinism": _determinism,
}
