"""Promises about ragged batches: a held place, without a token, changes nothing.

One row is full, one is empty, one ends within a chunk; states are warm, documents restart in the
rows. Held places contain NaN inputs, NaN cotangents and resets. What is compared bit for bit is one
compiled function with its tokens in other places; another program, as for a row by itself, rounds
differently, since XLA orders its sums by the shapes.
"""

import functools

import jax
import numpy as np

from jaxmodels.cells.base import where_reset
from jaxmodels.testing.lab import (
    BATCH,
    GRADIENT_FLOOR,
    compare,
    gradients,
    need,
    quick_jit,
    same_bits,
)
from jaxmodels.testing.promises import GRADIENTS, VALUES


class Layout:
    """Places of the tokens of each row.

    Attributes:
      places: for each row the places of its tokens in a row of `time` places, in order.
      hold: bool (rows, time).
    """

    def __init__(self, places, time: int):
        self.places = places
        self.hold = np.ones((len(places), time), bool)
        for row, at in enumerate(places):
            self.hold[row, at] = False

    def spread(self, x, junk):
        """Return x (rows, time, ...), tokens at the front, with them in place amid junk."""
        out = np.full_like(x, junk)
        for row, at in enumerate(self.places):
            out[row, at] = x[row, : len(at)]
        return out

    def collect(self, x):
        """Return x (rows, time, ...) with its tokens at the front and zeros behind them.

        Raises:
          Broken: a held place is not zero.
        """
        need(not np.any(x[self.hold]), "an output or a gradient in a held place is not 0")
        out = np.zeros_like(x)
        for row, at in enumerate(self.places):
            out[row, : len(at)] = x[row, at]
        return out


def layouts(lengths, time: int) -> dict[str, Layout]:
    """Return layouts of rows of these lengths: padded right, padded left, and with holes."""
    rng = np.random.default_rng(5)
    holes = [np.sort(rng.permutation(time)[:length]) for length in lengths]
    return {
        "right": Layout([np.arange(length) for length in lengths], time),
        "left": Layout([np.arange(time - length, time) for length in lengths], time),
        "holes": Layout(holes, time),
    }


class RaggedLab:
    """Inputs of a `Lab` in ragged layouts, and the functions compiled for them."""

    def __init__(self, lab):
        self.lab = lab
        self.lengths = np.array([lab.time, 0, lab.chunk + 1][:BATCH], np.int32)
        self.layouts = layouts(self.lengths, lab.time)
        self.run = quick_jit(self._run, static_argnums=0)
        self.forward = quick_jit(self._forward, static_argnums=0)
        self.back = functools.cache(self._back)

    def _forward(self, form, cell, state, xs, reset, hold):
        return (cell.scan if form == "scan" else cell)(state, xs, reset, hold=hold)

    def _run(self, form, cell, state, xs, reset, hold, d_state, d_ys):
        def forward(*args):
            return self._forward(form, *args, reset, hold)

        return gradients(forward)(cell, state, xs, (d_state, d_ys))

    def inputs(self, layout, xs=None):
        """Return (xs, reset) of a layout, with NaN and resets in the held places."""
        xs = self.lab.xs if xs is None else xs
        return layout.spread(np.asarray(xs), np.nan), layout.spread(self.lab.reset, True)

    def _back(self, form, name, other_rows=False):
        """Return ((state, ys), gradients), tokens at the front, of a form and layout.

        other_rows: with other inputs and states in all rows but the last.
        """
        layout, (d_state, d_ys) = self.layouts[name], self.lab.cotangents
        state, xs = jax.device_get(self.lab.warm), np.asarray(self.lab.xs).copy()
        if other_rows:
            xs[:-1] = 5.0 - 3.0 * xs[:-1]
            state = jax.tree.map(lambda x: np.concatenate([x[1:], x[-1:]]), state)
        xs, reset = self.inputs(layout, xs)
        d_ys = layout.spread(d_ys, np.nan)
        (last, ys), (d_cell, d_before, d_xs) = jax.device_get(
            self.run(form, self.lab.cell, state, xs, reset, layout.hold, d_state, d_ys)
        )
        gradient = d_cell, d_before, layout.collect(d_xs)
        return (last, layout.collect(ys)), gradient

    def alone(self):
        """Return what `_back` should, by `step` on each row's tokens, which knows no `hold`."""
        lab, (d_last, d_ys) = self.lab, self.lab.cotangents
        state, xs, reset = lab.warm, np.asarray(lab.xs), lab.reset
        states, ys = [jax.device_get(state)], []
        for t in range(lab.time):
            state, y = jax.device_get(lab.step(lab.cell, state, xs[:, t], reset[:, t]))
            states.append(state)
            ys.append(y)
        pick = np.arange(BATCH)
        last = jax.tree.map(lambda *x: np.stack(x)[self.lengths, pick], *states)
        real = np.arange(lab.time)[None] < self.lengths[:, None]

        def at_end(t, d_state):
            """Let in the cotangents of the states of rows of t tokens."""

            def pick(own, d):
                ends = (self.lengths == t).reshape((-1,) + (1,) * (d.ndim - 1))
                return np.where(ends, own, d)

            return jax.tree.map(pick, d_last, d_state)

        d_state, d_cell, d_xs = jax.tree.map(np.zeros_like, d_last), None, []
        for t in reversed(range(lab.time)):
            d_y = np.where(real[:, t, None], d_ys[:, t], 0.0)
            arguments = states[t], xs[:, t], reset[:, t], at_end(t + 1, d_state), d_y
            more, d_state, d_x = jax.device_get(lab.step_back(lab.cell, *arguments))
            d_cell = more if d_cell is None else jax.tree.map(np.add, d_cell, more)
            d_xs.append(d_x)
        ys = np.where(real[..., None], np.stack(ys, 1), 0.0)
        return (last, ys), (d_cell, at_end(0, d_state), np.stack(d_xs[::-1], 1))


@functools.lru_cache(maxsize=1)
def _ragged(lab) -> RaggedLab:
    return RaggedLab(lab)


def places(lab) -> str:
    """Check that values, states and gradients do not depend on where the held places are."""
    ragged = _ragged(lab)
    for form in lab.forms:
        want = ragged.back(form, "right")
        for name in ("left", "holes"):
            got = ragged.back(form, name)
            parts = ("values", "gradients")
            for part, a, b in zip(parts, got, want, strict=True):
                need(same_bits(a, b), f"{form}: {part} of {name} differ from those padded right")
    lengths = ", ".join(map(str, ragged.lengths))
    return f"right, left, holes: bit-identical values and gradients; {lengths} of {lab.time} tokens"


def alone(lab) -> str:
    """Compare ragged rows with the same rows alone, and with other neighbours."""
    ragged, pairs = _ragged(lab), []
    want = ragged.alone()
    names = ("state", "ys"), ("parameters", "initial state", "inputs")
    empty = int(np.argmin(ragged.lengths))
    for form in lab.forms:
        got = ragged.back(form, "left")
        other = ragged.back(form, "left", other_rows=True)
        rows = ((got[0], got[1][1:]), (other[0], other[1][1:]))
        same = same_bits(*(jax.tree.map(lambda x: x[-1], row) for row in rows))
        need(same, f"{form}: a row changes with the other rows of the batch")
        row = jax.tree.map(lambda x: x[empty], (got[0][0], lab.warm))
        need(same_bits(*jax.device_get(row)), f"{form}: a row without a token changes its state")
        for part, tolerance, floor in ((0, VALUES, 0.0), (1, GRADIENTS, GRADIENT_FLOOR)):
            pairs += [
                (f"{form}, {name}", *pair, tolerance, floor)
                for name, *pair in zip(names[part], got[part], want[part], strict=True)
            ]
    told = [compare([pair[:3]], *pair[3:]) for pair in pairs]
    form, row, length = lab.forms[-1], BATCH - 1, int(ragged.lengths[-1])
    state = jax.tree.map(lambda x: x[row : row + 1], lab.warm)
    part = slice(row, row + 1), slice(length)
    hold = np.zeros((1, length), bool)
    one = ragged.forward(form, lab.cell, state, lab.xs[part], lab.reset[part], hold)
    (last, ys), _ = ragged.back(form, "left")
    got = jax.tree.map(lambda x: x[row : row + 1], last), ys[part]
    alike = compare([(f"{form} of one row", *p) for p in zip(got, one, strict=True)], VALUES)
    worst = max(told, key=lambda text: float(text.split()[2].rstrip(",")))
    return f"to step: {worst}; to {form} of the row alone: {alike}"


def steps(lab) -> str:
    """Check `step` with `hold`, `lengths`, a vmap over rows, and bfloat16."""
    ragged, form = _ragged(lab), lab.forms[-1]
    layout = ragged.layouts["holes"]
    xs, reset = ragged.inputs(layout)
    fresh = jax.device_get(lab.cell.initial_state(BATCH))
    step = quick_jit(lambda cell, state, x, hold: cell.step(state, x, hold=hold))
    state, ys = jax.device_get(lab.warm), []
    for t in range(lab.time):
        hold = layout.hold[:, t]
        state = before = jax.device_get(where_reset(reset[:, t] & ~hold, fresh, state))
        state, y = jax.device_get(step(lab.cell, state, xs[:, t], hold))
        kept = jax.tree.map(lambda x, h=hold: x[h], (before, state))
        need(same_bits(*kept), "step changes the state of a held row")
        ys.append(y)
    (last, want), _ = ragged.back(form, "holes")
    got = layout.collect(np.stack(ys, 1))
    pairs = [("steps, ys", got, want), ("steps, state", state, last)]

    right = ragged.layouts["right"]
    xs, reset = ragged.inputs(right)
    run = quick_jit(lambda cell, state, xs, reset, lengths: cell(state, xs, reset, lengths=lengths))
    padded = jax.device_get(run(lab.cell, lab.warm, xs, reset, ragged.lengths))
    pairs += [("lengths", x, y) for x, y in zip(padded, (last, want), strict=True)]

    def row(cell, state, xs, reset, hold):
        one = jax.tree.map(lambda x: x[None], (state, xs, reset))
        out = cell(*one, hold=hold[None])
        return jax.tree.map(lambda x: x[0], out)

    xs, reset = ragged.inputs(layout)
    mapped = quick_jit(jax.vmap(row, (None, 0, 0, 0, 0)))
    by_row, ys = jax.device_get(mapped(lab.cell, lab.warm, xs, reset, layout.hold))
    pairs += [("vmap, state", by_row, last), ("vmap, ys", layout.collect(ys), want)]
    told = compare(pairs, VALUES)
    if lab.half is None:
        return told
    half = {}
    for name in ("right", "left"):
        layout = ragged.layouts[name]
        xs, reset = ragged.inputs(layout)
        last, ys = jax.device_get(
            ragged.forward(form, lab.half.cell, lab.warm, xs, reset, layout.hold)
        )
        half[name] = last, layout.collect(ys)
    need(same_bits(half["right"], half["left"]), "bfloat16: left differs from right")
    return f"{told}; bfloat16 bit-identical"


RAGGED = {
    "hold: right == left == holes": places,
    "hold: each row == the row alone": alone,
    "hold: step, vmap, bfloat16": steps,
}
