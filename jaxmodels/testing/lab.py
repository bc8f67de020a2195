"""A cell, inputs for it, and the few compiled functions that all promises share."""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxmodels.cells.base import Cell, where_reset
from jaxmodels.tree import leaf_name

BATCH = 3
WARM = 8  # tokens read before the first
DRAWS, NUDGES, CALM = 8, 3, 3e-5  # see `Lab.inputs`; a draw that is upset less than CALM will do
# A sum that cancels leaves the rounding of its summands: entries of a gradient are measured against
# at least this share of the largest gradient.
GRADIENT_FLOOR = 1e-3


def quick_jit(function, **arguments):
    """`jax.jit`, told not to optimise: on a CPU, compiling takes far longer than these runs."""
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
    """A promise that does not hold; the message says how."""


class Lab:
    """A cell, inputs, and the compiled functions that all promises share."""

    def __init__(self, cell_class, config, chunk, frozen, seed):
        self.again = lambda config: Lab(cell_class, config, chunk, frozen, seed)
        self.cell = shaken(cell_class(config, rngs=nnx.Rngs(seed)), seed)
        self.config, self.frozen = config, frozen
        sizes = (chunk, getattr(config, "chunk_size", 0), getattr(config, "remat_chunk", 0), 16)
        self.chunk = max(2, next(size for size in sizes if size))
        self.time = 2 * self.chunk + 1
        # A cell that keeps the inherited call has one form: nothing to compile twice.
        self.forms = ("scan",) if cell_class.__call__ is Cell.__call__ else ("scan", "call")
        self.traces, self.known = collections.Counter(), {}
        self.rng = np.random.default_rng(seed)
        reset = self.rng.random((BATCH, self.time)) < 0.15
        border = self.chunk
        reset[0, [0, 1, border]] = reset[1, [border - 1, border + 1]] = True
        self.reset, self.no_reset = reset, np.zeros_like(reset)
        self.forward = quick_jit(self._forward, static_argnums=0)
        self.run = quick_jit(self._run, static_argnums=0)
        self.step = quick_jit(self._step)
        self.step_back = quick_jit(self._step_back)

    def _forward(self, form, cell, state, xs, reset):
        given = "given" if reset is not None else "None"
        self.traces[f"{form}, {xs.shape[1]} tokens, reset {given}"] += 1
        run = cell.scan if form == "scan" else cell
        return run(state, xs) if reset is None else run(state, xs, reset)

    def _run(self, form, cell, state, xs, reset, d_state, d_ys):
        """-> ((state, ys), gradients of (cell, state, xs)), for cotangents of state and ys."""

        def forward(*args):
            return self._forward(form, *args, reset)

        out, back = jax.vjp(forward, cell, state, xs)
        return out, back((d_state, d_ys))

    def _step(self, cell, state, x, reset):
        self.traces["step"] += 1
        return _restart_and_step(cell, state, x, reset)

    def _step_back(self, cell, state, x, reset, d_state, d_y):
        _, back = jax.vjp(lambda *args: _restart_and_step(*args, reset), cell, state, x)
        return back((d_state, d_y))

    @functools.cached_property
    def inputs(self):
        """(state, xs, `rounding`): of a few random draws the one that rounding upsets least.

        An untrained recurrence may be chaotic: what one rounding changes grows from token to token,
        by a factor that differs a hundredfold between draws. Where it grows much, no two programs
        in float32 agree, however right both are. How much is asked of `step` alone; the forms to be
        judged have no say in it.
        """
        best = None
        for _ in range(DRAWS):
            shape = (BATCH, WARM + self.time, self.config.width)
            xs = self.rng.standard_normal(shape, np.float32)
            fresh = self.cell.initial_state(BATCH)
            states, _ = self._walk(self.cell, fresh, xs[:, :WARM], np.zeros((BATCH, WARM), bool))
            state, xs = states[-1], xs[:, WARM:]
            upset = self._upset(state, xs, best[2] if best else math.inf)
            if best is None or upset < best[2]:
                best = state, xs, upset
            if upset < CALM:
                break
        return best

    def _upset(self, state, xs, enough):
        """How far gradients move, with resets and without, when each parameter moves by one ulp.

        The worst of a few such moves, or of as many as it takes to find `enough`.
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
        except Exception:  # no derivative, say: the promises about gradients tell
            return math.inf
        return worst

    @functools.cached_property
    def half(self):
        """The same with matmuls in bfloat16, or None if the config has no field `dtype`."""
        if not hasattr(self.config, "dtype"):
            return None
        return self.again(dataclasses.replace(self.config, dtype="bfloat16"))

    @property
    def warm(self):
        """A state that the cell can be in: a random one might be none (a mask, a denominator)."""
        return self.inputs[0]

    @property
    def xs(self):
        """(batch, time, width)."""
        return self.inputs[1]

    @property
    def rounding(self):
        """See `_upset`."""
        return self.inputs[2]

    @functools.cached_property
    def nudged(self):
        """The cell a few times, each parameter moved to the next float32, up or down."""
        rng = np.random.default_rng(0)

        def nudge(x):
            ends = np.where(rng.random(x.shape) < 0.5, -np.inf, np.inf)
            return jnp.asarray(np.nextafter(x, ends.astype(x.dtype)))

        return [jax.tree.map(nudge, self.cell) for _ in range(NUDGES)]

    @functools.cached_property
    def cotangents(self):
        """Random weights of a loss that looks at the last state and at every output."""
        x = jax.ShapeDtypeStruct((BATCH, self.config.width), jnp.float32)
        state, y = jax.eval_shape(self.cell.step, self.cell.initial_state(BATCH), x)
        rng = np.random.default_rng(1)
        draw = functools.partial(rng.standard_normal, dtype=np.float32)
        d_state = jax.tree.map(lambda s: draw(s.shape), state)
        return d_state, draw((BATCH, self.time, *y.shape[1:]))

    def sequence(self, form, time=None, reset=None, state=None, xs=None, d_state=None, d_ys=None):
        """((state, ys), gradients) of a form on `time` tokens, one of `lengths`.

        Gradients are None where `lengths` does not name them. What is not given is the lab's own.
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
        """`step` in a loop -> ([state before each token ..., last state], ys)."""
        states, ys = [state], []
        for t in range(xs.shape[1]):
            state, y = self.step(cell, states[-1], xs[:, t], reset[:, t])
            states.append(state)
            ys.append(y)
        return states, np.stack(ys, 1)

    def _back(self, cell, state, xs, reset, state_counts=True):
        """((state, ys), gradients) by `_walk` and, step by step, back."""
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

    def stepped(self, time, resets, state_counts=True):
        """The reference: as `sequence`, by a loop over `step` and its gradient."""
        case = (time, resets, state_counts)
        if case not in self.known:
            reset = self.reset if resets else self.no_reset
            self.known[case] = self._back(
                self.cell, self.warm, self.xs[:, :time], reset, state_counts
            )
        return self.known[case]

    def lengths(self, form):
        """{(time, a reset array is given): also differentiated}: what `form` is compiled for."""
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


def _restart_and_step(cell, state, x, reset):
    return cell.step(where_reset(reset, cell.initial_state(BATCH), state), x)


def shaken(cell, seed):
    """The cell with small noise in place of every array of zeros.

    An output matrix that starts at zero, as RWKV's does, would hide all that lies before it.
    """
    rng = np.random.default_rng(seed)

    def shake(x):
        rows = max(x.shape[0] if x.ndim else 1, 1)
        noise = 0.3 * rng.standard_normal(x.shape, np.float32) / rows**0.5
        return jnp.asarray(x if np.any(x) else noise, x.dtype)  # of no weak type, as if restored

    return jax.tree.map(shake, cell)


def names(tree):
    """A dotted name for each leaf."""
    return [leaf_name(path, ".") for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]]


def _error(got, want, floor=0.0):
    """(largest error relative to the largest entry of its array, the array's name)."""
    largest = max((float(np.abs(w).max()) for w in jax.tree.leaves(want) if w.size), default=0.0)
    errors = []
    for name, g, w in zip(names(want), jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        if g.shape != w.shape:
            raise Broken(f"{name or 'ys'} has shape {g.shape}, should have {w.shape}")
        scale = max(float(np.abs(w).max()), floor * largest, 1e-30)
        error = float(np.abs(np.asarray(g, np.float64) - w).max()) / scale
        errors.append((math.inf if math.isnan(error) else error, name or "ys"))
    return max(errors)


def compare(pairs, tolerance, floor=0.0, note=""):
    """pairs: (label, got, want). -> "max error ...", or Broken naming the worst."""
    found = [(*_error(got, want, floor), label) for label, got, want in pairs]
    error, name, label = max(found)
    if error > tolerance:
        raise Broken(
            f"{label}: {name} off by {error:.1e} of its largest entry, allowed {tolerance:g}{note}"
        )
    return f"max error {error:.0e}, allowed {tolerance:g}{note}"


def same_bits(a, b):
    """Whether two trees hold equal arrays; NaN is equal to nothing."""
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def need(condition, message):
    """Raises Broken with the message unless the condition holds."""
    if not condition:
        raise Broken(message)
