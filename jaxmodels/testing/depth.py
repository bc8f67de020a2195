"""Promises of a recurrence in depth, HRM (`jaxmodels.cells.hrm`).

It has no step and no chunks; instead, the hand-off between ACT steps, the mask, and the truncation
of the gradient are checked.
"""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.cells.hrm import HRM, HRMConfig, HRMState
from jaxmodels.testing.lab import compare, gradients_of_all, need, quick_jit, same_bits, shaken
from jaxmodels.testing.precision import inexact_matmuls
from jaxmodels.testing.promises import BFLOAT16, VALUES
from jaxmodels.tree import flatten

BATCH, TIME = 3, 9
DEPTH = {"hrm": (HRMConfig, HRM)}


class DepthLab:
    """Module with `think`, its inputs, and the compiled functions that the promises share."""

    def __init__(self, cell_class, config, frozen, seed):
        self.again = functools.partial(DepthLab, cell_class, frozen=frozen, seed=seed)
        self.cell = shaken(cell_class(config, rngs=nnx.Rngs(seed)), seed)
        self.config, self.frozen = config, frozen
        rng = np.random.default_rng(seed)
        draw = functools.partial(rng.standard_normal, (BATCH, TIME, config.width), np.float32)
        self.state, self.x = HRMState(draw(), draw()), draw()
        self.cotangents = HRMState(draw(), draw())
        self.mask = np.tril(np.ones((BATCH, TIME, TIME), bool))
        self.positions = np.tile(np.arange(TIME), (BATCH, 1))
        self.traces = collections.Counter()
        self.forward, self.run = quick_jit(self._forward), quick_jit(self._run)

    def _forward(self, cell, state, x, mask):
        self.traces["think"] += 1
        return cell.think(state, x, mask, self.positions)

    def _run(self, cell, state, x, mask, d_state):
        """Return (state, gradients of (cell, state, x))."""
        self.traces["gradient"] += 1

        def think(cell, state, x):
            return cell.think(state, x, mask, self.positions)

        after, back = jax.vjp(think, cell, state, x)
        return after, back(d_state)

    def think(self, state=None, x=None, mask=None):
        """Return the state after one ACT step; arguments default to the lab's."""
        state, x = self.state if state is None else state, self.x if x is None else x
        mask = self.mask if mask is None else mask
        return jax.device_get(self.forward(self.cell, state, x, mask))

    @functools.cached_property
    def gradients(self):
        """State and gradients of (cell, state, x) for a loss on the whole state."""
        return jax.device_get(self.run(self.cell, self.state, self.x, self.mask, self.cotangents))

    @functools.cached_property
    def half(self):
        """Lab with matmuls in bfloat16."""
        return self.again(dataclasses.replace(self.config, dtype="bfloat16"))


def _state(lab):
    after = jax.eval_shape(lab.forward, lab.cell, lab.state, lab.x, lab.mask)
    shape = lab.x.shape
    for name, leaf in flatten(after, ".").items():
        need(leaf.dtype == jnp.float32, f"{name} is {leaf.dtype}, should be float32")
        need(leaf.shape == shape, f"{name} has shape {leaf.shape}, not {shape}")
    return f"{len(jax.tree.leaves(after))} arrays {shape} float32"


def _handoff(lab):
    """Compare two ACT steps with one of twice the cycles: only the state is carried."""
    twice = lab.again(dataclasses.replace(lab.config, high_cycles=2 * lab.config.high_cycles))
    once = lab.think(lab.think())
    return compare([("two rounds", once, twice.think())], VALUES)


def _mask(lab):
    """Check bit-exact causality under a causal mask."""
    last = lab.think()
    for i in (1, TIME // 2, TIME - 1):
        state, x = jax.tree.map(np.copy, (lab.state, lab.x))
        for part in (state.high, state.low, x):
            part[:, i:] = 5.0 - 3.0 * part[:, i:]
        changed = lab.think(state, x)
        for (name, a), b in zip(flatten(last, ".").items(), jax.tree.leaves(changed), strict=True):
            need(np.array_equal(a[:, :i], b[:, :i]), f"position {i} changes {name} before it")
            need((a[:, i] != b[:, i]).any(), f"position {i} does not change its own {name}")
    return "bit-identical before what a causal mask hides"


def _rows(lab):
    state, x = jax.tree.map(np.copy, (lab.state, lab.x))
    for part in (state.high, state.low, x):
        part[1:] = 5.0 - 3.0 * part[1:]
    first = [jax.tree.map(lambda z: z[0], lab.think(*each)) for each in ((), (state, x))]
    need(same_bits(*first), "row 0 changes with the other rows of the batch")
    return "bit-identical whatever the other rows hold"


def _gradients(lab):
    _, (d_cell, d_state, _) = lab.gradients
    leaks = [name for name, g in flatten(d_state, ".").items() if g.any()]
    need(not leaks, f"gradient flows into the state before: {', '.join(leaks)}")
    return gradients_of_all(d_cell, lab.frozen)


def _full_precision(lab):
    found = []
    for cells in (lab, lab.half):
        arguments = (cells.cell, lab.state, lab.x, lab.mask)
        found += inexact_matmuls(cells.forward.trace(*arguments).jaxpr)
        found += inexact_matmuls(cells.run.trace(*arguments, lab.cotangents).jaxpr)
    need(not found, f"left to the hardware's default: {', '.join(dict.fromkeys(found))}")
    return "Precision.HIGHEST in 4 programs"


def _bfloat16(lab):
    after, gradients = lab.half.gradients
    for what, tree in (("state", after), ("gradient", gradients), ("parameter", lab.half.cell)):
        for name, leaf in flatten(tree, ".").items():
            need(leaf.dtype == jnp.float32, f"{what} {name} is {leaf.dtype}, should be float32")
            need(np.isfinite(leaf).all(), f"{what} {name} is not finite")
    return compare([("bfloat16", after, lab.think())], BFLOAT16)


def _vmap(lab):
    """Compare a vmap over two groups of rows with separate calls."""
    groups = jax.tree.map(lambda a, b: np.stack([a, b]), lab.state, lab.cotangents)
    xs = np.stack([lab.x, -lab.x])
    run = quick_jit(jax.vmap(lambda cell, *args: cell.think(*args), (None, 0, 0, None, None)))
    after = run(lab.cell, groups, xs, lab.mask, lab.positions)
    pairs = []
    for i, (state, x) in enumerate(((lab.state, lab.x), (lab.cotangents, -lab.x))):
        own = jax.tree.map(lambda z, i=i: z[i], after)
        pairs.append((f"group {i}", own, lab.think(state, x)))
    return compare(pairs, VALUES)


def _traces(lab):
    """Check that a returned state fits the same compiled function."""
    lab.think(jax.tree.map(jnp.asarray, lab.think()))
    again = [f"{name} ({count} times)" for name, count in lab.traces.items() if count > 1]
    need(not again, f"traced anew: {'; '.join(again)}")
    return f"{len(lab.traces)} functions, each traced once"


def _determinism(lab):
    need(same_bits(lab.again(lab.config).cell, lab.cell), "one seed, two initializations")
    need(same_bits(lab.think(), lab.think()), "the same arguments, another result")
    return "same seed, same parameters; same arguments, same bits"


DEPTH_PROMISES = {
    "state: float32, one shape": _state,
    "handoff f(f(z)) == twice the cycles": _handoff,
    "causality under a causal mask": _mask,
    "rows are independent": _rows,
    "every parameter has a gradient": _gradients,
    "float32 matmuls: full precision": _full_precision,
    "bfloat16 compute, float32 state": _bfloat16,
    "vmap": _vmap,
    "one trace a shape": _traces,
    "determinism": _determinism,
}
