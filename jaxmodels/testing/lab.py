"""Shared fixtures of the conformance suite: a cell, its inputs, compiled functions, comparisons."""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.cells.base import Cell, where_reset
from jaxmodels.testing.leaves import floats_of, is_float, joined, plain
from jaxmodels.tree import flatten

BATCH = 3
WARM = 8  # tokens read before the first
DRAWS, NUDGES, CALM = 8, 3, 3e-5  # see `Lab.inputs`; rounding below CALM is accepted at once
# A sum that cancels leaves the rounding of its summands: errors of a gradient are relative to at
# least this fraction of the largest gradient.
GRADIENT_FLOOR = 1e-3


def quick_jit(function, **arguments):
    """Apply `jax.jit` without optimization: on a CPU, compiling takes far longer than running."""
    return jax.jit(function, compiler_options=_options(), **arguments)


@functools.cache
def _options():
    if jax.default_backend() != "cpu":
        return None
    options = {"xla_backend_optimization_level": 0}
    older = dict(options, xla_cpu_use_fusion_emitters=False)  # an option that later XLA dropped
    try:
        jax.jit(lambda x: x + 1, compiler_options=older)(0.0)
    except jax.errors.JaxRuntimeError:
        return options
    return older


class Broken(Exception):
    """Raised by a promise that does not hold, with the reason as message."""


class Lab:
    """Cell, inputs, and the compiled functions that all promises share."""

    def __init__(self, cell_class, config, chunk, frozen, seed):
        self.again = lambda config: Lab(cell_class, config, chunk, frozen, seed)
        self.cell = shaken(cell_class(config, rngs=nnx.Rngs(seed)), seed)
        self.config, self.frozen = config, frozen
        sizes = (chunk, getattr(config, "chunk_size", 0), getattr(config, "remat_chunk", 0), 16)
        self.chunk = max(2, next(size for size in sizes if size))
        self.time = 2 * self.chunk + 1
        # With the inherited `__call__`, only `scan` is compiled.
        self.forms = ("scan",) if cell_class.__call__ is Cell.__call__ else ("scan", "call")
        self.traces = collections.Counter()
        self.stepped = functools.cache(self._stepped)
        self.rng = np.random.default_rng(seed)
        reset = self.rng.random((BATCH, self.time)) < 0.15
        boundary = self.chunk
        reset[0, [0, 1, boundary]] = reset[1, [boundary - 1, boundary + 1]] = True
        self.reset, self.no_reset = reset, np.zeros_like(reset)
        self.forward = quick_jit(self._forward, static_argnums=0)
        self.run = quick_jit(self._run, static_argnums=0)
        self.step = quick_jit(self._step)
        self.step_back = quick_jit(self._step_back)

    def _forward(self, form, cell, state, xs, reset):
        given = "given" if reset is not None else "None"
        self.traces[f"{form}, {xs.shape[1]} tokens, reset {given}"] += 1
        return run_form(form, cell, state, xs, reset)

    def _run(self, form, cell, state, xs, reset, d_state, d_ys):
        """Return ((state, ys), gradients of (cell, state, xs)), for cotangents of state and ys."""
        return gradients(lambda *args: self._forward(form, *args, reset))(
            cell, state, xs, (d_state, d_ys)
        )

    def _step(self, cell, state, x, reset):
        self.traces["step"] += 1
        return _restart_and_step(cell, state, x, reset)

    def _step_back(self, cell, state, x, reset, d_state, d_y):
        step = gradients(lambda *args: _restart_and_step(*args, reset))
        return step(cell, state, x, (d_state, d_y))[1]

    @functools.cached_property
    def inputs(self):
        """State, xs and `rounding` of the random draw that is least sensitive to rounding.

        An untrained recurrence may be chaotic: rounding errors grow from token to token, by a
        factor that differs a hundredfold between draws. If it is large, no two correct float32
        programs agree. Sensitivity is measured on `step` alone, not on the code under test.
        """
        best = None
        for _ in range(DRAWS):
            shape = (BATCH, WARM + self.time, self.config.width)
            xs = self.rng.standard_normal(shape, np.float32)
            fresh = self.cell.initial_state(BATCH)
            states, _ = self._walk(self.cell, fresh, xs[:, :WARM], np.zeros((BATCH, WARM), bool))
            state, xs = states[-1], xs[:, WARM:]
            rounding = self._sensitivity(state, xs, best[2] if best else math.inf)
            if best is None or rounding < best[2]:
                best = state, xs, rounding
            if rounding < CALM:
                break
        return best

    def _sensitivity(self, state, xs, enough):
        """Return the largest change of gradients, with and without resets, for one-ulp moves.

        The maximum over a few random moves of all parameters; the search ends at `enough`.
        """
        worst = 0.0
        try:
            for reset in (self.no_reset, self.reset):
                want = self._back(self.cell, state, xs, reset)[1]
                for cell in self.nudged:
                    got = self._back(cell, state, xs, reset)[1]
                    pairs = zip(got, want, strict=True)
                    worst = max(worst, *(_error(*pair, GRADIENT_FLOOR)[0] for pair in pairs))
                    if worst >= enough:
                        return worst
        except Exception:  # e.g. no derivative: reported by the promises about gradients
            return math.inf
        return worst

    @functools.cached_property
    def half(self):
        """Lab with matmuls in bfloat16, or None if the config has no field `dtype`."""
        if not hasattr(self.config, "dtype"):
            return None
        return self.again(dataclasses.replace(self.config, dtype="bfloat16"))

    @property
    def warm(self):
        """A reachable state; a random one may be invalid (a mask, a denominator)."""
        return self.inputs[0]

    @property
    def xs(self):
        """Inputs, (batch, time, width)."""
        return self.inputs[1]

    @property
    def rounding(self):
        """Sensitivity of the inputs; see `_sensitivity`."""
        return self.inputs[2]

    @functools.cached_property
    def nudged(self):
        """Copies of the cell with each parameter moved to an adjacent number, up or down."""
        rng = np.random.default_rng(0)

        def nudge(x):
            if not is_float(x):
                return x
            ends = np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf)
            return jnp.asarray(np.nextafter(x, ends.astype(x.dtype)))

        return [jax.tree.map(nudge, self.cell) for _ in range(NUDGES)]

    @functools.cached_property
    def cotangents(self):
        """Random cotangents of the float leaves of the last state, and of every output."""
        x = jax.ShapeDtypeStruct((BATCH, self.config.width), jnp.float32)
        state, y = jax.eval_shape(self.cell.step, self.cell.initial_state(BATCH), x)
        rng = np.random.default_rng(1)
        draw = functools.partial(rng.standard_normal, dtype=np.float32)
        d_state = jax.tree.map(lambda s: draw(s.shape), floats_of(state))
        return d_state, draw((BATCH, self.time, *y.shape[1:]))

    def sequence(self, form, time=None, reset=None, state=None, xs=None, d_state=None, d_ys=None):
        """Return ((state, ys), gradients) of "scan" or "call" on `time` tokens, one of `lengths`.

        Gradients are None where `lengths` excludes them. Other arguments default to the lab's.
        """
        time = time or self.time
        state = self.warm if state is None else state
        xs = self.xs[:, :time] if xs is None else xs
        reset = None if reset is None else reset[:, :time]
        if not self.lengths(form)[time, reset is not None]:
            return jax.device_get(self.forward(form, self.cell, state, xs, reset)), None
        d_state = self.cotangents[0] if d_state is None else d_state
        d_ys = self.cotangents[1][:, :time] if d_ys is None else d_ys
        return jax.device_get(self.run(form, self.cell, state, xs, reset, d_state, d_ys))

    def _walk(self, cell, state, xs, reset):
        """Run `step` in a loop -> ([state before each token ..., last state], ys)."""
        states, ys = [state], []
        for t in range(xs.shape[1]):
            state, y = self.step(cell, states[-1], xs[:, t], reset[:, t])
            states.append(state)
            ys.append(y)
        return states, np.stack(ys, 1)

    def _back(self, cell, state, xs, reset, state_counts=True):
        """Return ((state, ys), gradients) by `_walk` and its step-by-step derivative."""
        states, ys = self._walk(cell, state, xs, reset)
        d_state, d_ys = self.cotangents
        if not state_counts:
            d_state = jax.tree.map(np.zeros_like, d_state)
        d_cell, d_xs = None, []
        for t in reversed(range(xs.shape[1])):
            more, d_state, d_x = self.step_back(
                cell, states[t], xs[:, t], reset[:, t], d_state, d_ys[:, t]
            )
            d_cell = more if d_cell is None else jax.tree.map(jnp.add, d_cell, more)
            d_xs.append(d_x)
        gradients = (d_cell, d_state, np.stack(d_xs[::-1], 1))
        return jax.device_get(((states[-1], ys), gradients))

    def _stepped(self, time, resets, state_counts=True):
        """Return the reference of `sequence`, by a loop over `step` and its gradient."""
        reset = self.reset if resets else self.no_reset
        return self._back(self.cell, self.warm, self.xs[:, :time], reset, state_counts)

    def lengths(self, form):
        """Return the shapes compiled for `form`: {(time, has reset array): is differentiated}."""
        if form == "scan":
            return {(self.time, True): True, (self.chunk + 1, False): False}
        return {
            (self.time, True): True,
            (self.time, False): False,
            (self.chunk, True): True,
            (self.chunk + 1, True): False,
            (self.chunk - 1, False): False,
            (1, False): False,
        }


def run_form(form, cell, state, xs, reset=None):
    """Return what "scan" or "call" of the cell does."""
    run = cell.scan if form == "scan" else cell
    return run(state, xs) if reset is None else run(state, xs, reset)


def _restart_and_step(cell, state, x, reset):
    return cell.step(where_reset(reset, cell.initial_state(BATCH), state), x)


def gradients(function):
    """Return a function (cell, state, x, cotangents) -> (function(cell, state, x), gradients).

    `function` returns (state, y). Gradients and cotangents of trees have None in place of leaves
    that are not float arrays, see `leaves.floats_of`.
    """

    def run(cell, state, x, cotangents):
        def forward(cell_floats, state_floats, x):
            last, y = function(joined(cell_floats, cell), joined(state_floats, state), x)
            return (floats_of(last), y), last

        (_, y), back, last = jax.vjp(forward, floats_of(cell), floats_of(state), x, has_aux=True)
        return (last, y), back(cotangents)

    return run


def shaken(cell, seed):
    """Return the cell with small noise in place of every array of zeros.

    An output matrix initialized to zero, like RWKV's, would hide errors before it.
    """
    rng = np.random.default_rng(seed)

    def shake(x):
        if not is_float(x):
            return x
        rows = max(x.shape[0] if x.ndim else 1, 1)
        noise = 0.3 * rng.standard_normal(x.shape, np.float32) / rows**0.5
        return jnp.asarray(x if np.any(x) else noise, x.dtype)  # not weakly typed

    return jax.tree.map(shake, cell)


def names(tree):
    """Return a dotted name for each leaf."""
    return list(flatten(tree, "."))


def _error(got, want, floor=0.0):
    """Return (largest error relative to the largest entry of its array, the array's name)."""
    largest = max((float(np.abs(w).max()) for w in jax.tree.leaves(want) if w.size), default=0.0)
    errors = []
    for (name, w), g in zip(flatten(want, ".").items(), jax.tree.leaves(got), strict=True):
        if g.shape != w.shape:
            raise Broken(f"{name or 'ys'} has shape {g.shape}, should have {w.shape}")
        scale = max(float(np.abs(w).max()), floor * largest, 1e-30)
        error = float(np.abs(np.asarray(g, np.float64) - w).max()) / scale
        errors.append((math.inf if math.isnan(error) else error, name or "ys"))
    return max(errors, default=(0.0, ""))


def compare(pairs, tolerance, floor=0.0, note=""):
    """Compare pairs (label, got, want); return "max error ..." or raise Broken for the worst."""
    error, name, label = max((*_error(got, want, floor), label) for label, got, want in pairs)
    if error > tolerance:
        raise Broken(
            f"{label}: {name} off by {error:.1e} of its largest entry, allowed {tolerance:g}{note}"
        )
    return f"max error {error:.0e}, allowed {tolerance:g}{note}"


def same_bits(a, b):
    """Return True if two trees have equal arrays; NaN equals nothing."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(np.array_equal(plain(x), plain(y)) for x, y in pairs)


def need(condition, message):
    """Raise Broken with the message unless the condition holds."""
    if not condition:
        raise Broken(message)


def gradients_of_all(gradients, frozen):
    """Return the number of gradients; raise Broken for any that is not finite, or zero.

    frozen: suffixes of names of parameters whose gradient may be zero.
    """
    named = flatten(gradients, ".")
    bad = [name for name, g in named.items() if not np.isfinite(g).all()]
    need(not bad, f"not finite: {', '.join(bad)}")
    dead = [name for name, g in named.items() if not g.any() and not name.endswith(frozen)]
    need(not dead, f"no gradient reaches: {', '.join(dead)}")
    return f"{len(named)} arrays, {sum(g.size for g in named.values())} scalars"
