"""Check that slow decays are not rounded to 1 in bfloat16 compute.

The largest bfloat16 below 1 is 0.996, so a decay of 0.9988 per token would be rounded to 1. Over a
few tokens of an untrained cell, other rounding hides that. So one parameter is changed until the
cell forgets slowly, and the cell reads hundreds of zeros: a perturbation of one state leaf, and a
gradient, then shrink by the decays alone. bfloat16 and float32 must agree on what is left.

Interactions with other leaves are removed after every token. Where that makes no difference, as in
every linear recurrence, the fastest implementation is checked in bfloat16 instead of steps.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.testing.lab import BATCH, names, need
from jaxmodels.testing.leaves import floats_of, is_float, joined

TOKENS = 256
# Tokens: in which a perturbation still shows; until fast transients are gone; measured after those.
FEW, SETTLE, MEASURED = 6, 32, 16
SLOW = 0.9982, 0.9996  # range of retention per token that bfloat16 rounds to 1
SLOWEST = 0.985  # lower limit if a cell cannot reach SLOW: rounding has a similar effect
TRIALS, LARGEST, PARAMETERS = 16, 8.0, 3  # limits of the search
# Tolerance of the log of what is left after TOKENS. A decay rounded to 1 is off by 0.1 to 0.46. The
# rounding of matmuls that compute float32 decays changes a log of 0.3 by 0.5 %.
SURVIVAL = 0.03
NEGLIGIBLE = SURVIVAL / 3  # smaller changes of a log are ignored


def slow_decays(lab) -> str:
    """Raise Broken if bfloat16 and float32 disagree on what survives `TOKENS` tokens."""
    if lab.half is None:
        return "config has no dtype"
    x = jax.ShapeDtypeStruct((BATCH, lab.config.width), jnp.float32)
    state, _ = jax.eval_shape(lab.half.cell.step, lab.cell.initial_state(BATCH), x)
    if any(part.dtype != jnp.float32 for part in jax.tree.leaves(state)):
        return "not judged: the state is not float32"
    found, worst = [], 0.0
    for leaf, name in enumerate(names(lab.cell.initial_state(1))):
        slow = _slow_cell(lab, leaf)
        if slow is None:
            continue
        cell, parameter, retention = slow
        half = jax.tree.unflatten(jax.tree.structure(lab.half.cell), jax.tree.leaves(cell))
        state, d_state, wanted = _by_steps(lab, cell, leaf)
        if not _agree(wanted, _by_steps(lab, _rounded(cell), leaf)[2], NEGLIGIBLE):
            continue  # chaotic: the result depends on the rounding of matmuls
        alone = _agree(wanted, _by_steps(lab, cell, leaf, alone=False)[2], NEGLIGIBLE)
        # Rounding may wake interactions that float32 keeps negligible; then the step is judged.
        if alone and _agree(wanted, _by_steps(lab.half, half, leaf, alone=False)[2], SURVIVAL):
            got, form = _by_windows(lab.half, half, leaf, state, d_state), lab.forms[-1]
        else:
            got, form = _by_steps(lab.half, half, leaf)[2], "step"
        for what, left, left16 in zip(("state", "gradient"), wanted, got, strict=True):
            need(
                abs(left16 - left) <= SURVIVAL,
                f"{what} {name}, retention {retention:.4f} by {parameter}: {math.exp(left16):.2f} "
                f"is left after {TOKENS} tokens of {form}, in float32 {math.exp(left):.2f}",
            )
            worst = max(worst, abs(left16 - left))
        found.append(f"{name} {retention:.4f} by {form}")
    if not found:
        return "no state whose retention a token can be made nearly 1"
    return f"{', '.join(found)}: max error {worst:.0e} of a logarithm, allowed {SURVIVAL:g}"


def _agree(a, b, most):
    return all(abs(x - y) <= most for x, y in zip(a, b, strict=True))


def _slow_cell(lab, leaf):
    """Return (cell with one parameter shifted, its name, retention per token of this leaf) or None.

    The parameter is chosen by its gradient; all of its entries are shifted by the same amount,
    found by doubling and bisection.
    """
    leaves, tree = jax.tree.flatten(floats_of(lab.cell))
    retention, slopes = _retention(lab, lab.cell, leaf), _slopes(lab, leaf)
    second = None
    for index in np.argsort([-abs(slope) for slope in slopes])[:PARAMETERS]:
        if not slopes[index]:
            break
        fast, slow = (0.0, None) if retention < SLOW[0] else (None, 0.0)
        shift = math.copysign(2.0, slopes[index] if slow is None else -slopes[index])
        for _ in range(TRIALS):
            moved = leaves[index] + np.float32(shift)
            floats = jax.tree.unflatten(tree, [*leaves[:index], moved, *leaves[index + 1 :]])
            cell = joined(floats, lab.cell)
            now = _retention(lab, cell, leaf)
            if _is_sensitive(now) and (second is None or now > second[2]):
                second = cell, names(floats)[index], now
            if SLOW[0] <= now <= SLOW[1]:
                return second
            fast, slow = (shift, slow) if now < SLOW[0] else (fast, shift)
            shift = 2.0 * shift if None in (fast, slow) else (fast + slow) / 2.0
            if abs(shift) > LARGEST:
                break
    return second


def _is_sensitive(retention):
    """Return True if rounding the retention to bfloat16 would be detected."""
    if not SLOWEST <= retention <= SLOW[1]:
        return False
    return abs(math.log(float(jnp.bfloat16(retention)) / retention)) * TOKENS > 3.0 * SURVIVAL


def _rounded(cell):
    """Return the cell with its matrices rounded to bfloat16."""

    def rounded(x):
        if x.ndim < 2 or not is_float(x):
            return x
        return np.asarray(x).astype(jnp.bfloat16).astype(np.float32)

    return jax.tree.map(rounded, cell)


def _retention(lab, cell, leaf):
    """Return the retention per token of the leaf's perturbation, after transients."""
    states = _steps(lab, cell, leaf, SETTLE + MEASURED)
    before, after = (_norm(_gap(state, leaf)) for state in (states[SETTLE], states[-1]))
    sound = before > 0.0 and math.isfinite(after)
    return (after / before) ** (1.0 / MEASURED) if sound else 0.0


def _slopes(lab, leaf):
    """Return, for each parameter, the mean slope of the leaf's remaining perturbation.

    Over so few tokens that not everything is forgotten, but more than a short convolution holds.
    """
    states = _steps(lab, lab.cell, leaf, FEW)
    gap = _gap(states[-1], leaf)
    toward = np.concatenate([-gap.sum(0, keepdims=True), gap]) / max(_norm(gap), 1e-30)
    total = [0.0] * len(jax.tree.leaves(floats_of(lab.cell)))
    for d_cell, _ in _steps_back(lab, lab.cell, leaf, states[:-1], toward):
        d_cell = jax.device_get(jax.tree.leaves(d_cell))
        total = [
            x + float(np.mean(d, dtype=np.float64)) for x, d in zip(total, d_cell, strict=True)
        ]
    return [slope if math.isfinite(slope) else 0.0 for slope in total]


def _by_steps(lab, cell, leaf, alone=True):
    """Return (state and gradient of the leaf after settling, logs of what TOKENS leave of both).

    alone: remove interactions with other leaves.
    """
    states = _steps(lab, cell, leaf, 2 * SETTLE + TOKENS, alone)
    start, end = (_norm(_gap(states[t], leaf)) for t in (SETTLE, SETTLE + TOKENS))
    d_leaf = np.abs(jax.tree.leaves(lab.cotangents[0])[leaf]) + 0.5
    back = _steps_back(lab, cell, leaf, states[SETTLE:-1], d_leaf, alone)
    gradients = [jax.tree.leaves(d_state)[leaf] for _, d_state in back]
    first, last = gradients[SETTLE - 1], gradients[-1]
    return states[SETTLE], first, (_log(end, start), _log(_norm(last), _norm(first)))


def _by_windows(lab, cell, leaf, state, d_leaf):
    """Return the logs of `_by_steps`, from a settled state and gradient, by calls of the cell."""
    count = round(TOKENS / lab.time) or 1
    states, d_state = [state], _only(lab, leaf, d_leaf)
    for _ in range(count):
        states.append(_window(lab, cell, states[-1], d_state)[0])
    for before in reversed(states[:-1]):
        d_state = _window(lab, cell, before, d_state)[1][1]
    share = TOKENS / (count * lab.time)
    of_state = _log(*(_norm(_gap(x, leaf)) for x in (states[-1], states[0])))
    of_gradient = _log(_norm(jax.tree.leaves(d_state)[leaf]), _norm(d_leaf))
    return share * of_state, share * of_gradient


def _steps(lab, cell, leaf, tokens, alone=True):
    """Return the states before and after each of `tokens` zeros.

    The first is the state after one zero, with the leaf perturbed in all rows but the first.
    """
    inputs = np.zeros((BATCH, lab.config.width), np.float32), np.zeros(BATCH, bool)
    state = jax.device_get(lab.step(cell, cell.initial_state(BATCH), *inputs)[0])
    leaves, tree = jax.tree.flatten(state)
    change = np.random.default_rng(0).uniform(0.05, 0.15, leaves[leaf].shape).astype(np.float32)
    change[0] = 0.0
    leaves[leaf] = leaves[leaf] + change
    states = [jax.tree.unflatten(tree, leaves)]
    for _ in range(tokens):
        state = jax.device_get(lab.step(cell, states[-1], *inputs)[0])
        if alone:
            parts = enumerate(jax.tree.leaves(state))
            parts = [x if i == leaf else np.repeat(x[:1], BATCH, 0) for i, x in parts]
            state = jax.tree.unflatten(tree, parts)
        states.append(state)
    return states


def _steps_back(lab, cell, leaf, states, d_leaf, alone=True):
    """Yield gradients of (cell, state) step by step, from that of the leaf after the last state."""
    inputs = np.zeros((BATCH, lab.config.width), np.float32), np.zeros(BATCH, bool)
    d_y, d_state = np.zeros_like(lab.cotangents[1][:, 0]), _only(lab, leaf, d_leaf)
    for state in reversed(states):
        d_cell, d_state, _ = lab.step_back(cell, state, *inputs, d_state, d_y)
        yield d_cell, d_state
        if alone:
            d_state = _only(lab, leaf, jax.tree.leaves(d_state)[leaf])


def _window(lab, cell, state, d_state):
    """Return the state after `lab.time` zeros, and gradients of (cell, state, xs)."""
    xs = np.zeros((BATCH, lab.time, lab.config.width), np.float32)
    arguments = (state, xs, lab.no_reset, d_state, np.zeros_like(lab.cotangents[1]))
    (after, _), gradients = jax.device_get(lab.run(lab.forms[-1], cell, *arguments))
    return after, gradients


def _only(lab, leaf, value):
    """Return a cotangent of the state that is zero except in one leaf."""
    leaves, tree = jax.tree.flatten(lab.cotangents[0])
    parts = [value if i == leaf else np.zeros_like(x) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(tree, [np.asarray(x, np.float32) for x in parts])


def _gap(state, leaf):
    """Return the difference of the leaf from row 0, float64 (batch - 1, ...)."""
    x = np.asarray(jax.tree.leaves(state)[leaf], np.float64)
    return x[1:] - x[:1]


def _norm(x):
    return float(np.linalg.norm(x))


def _log(last, first):
    return math.log(max(last, 1e-30) / max(first, 1e-30))
