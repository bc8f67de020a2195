"""Promises about derivatives beyond the gradient: second, forward, and inside `jax.shard_map`.

A form may refuse second derivatives by raising `NotDifferentiable`, never by being wrong.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxmodels.errors import NotDifferentiable, UserError
from jaxmodels.testing.lab import (
    BATCH,
    GRADIENT_FLOOR,
    Broken,
    compare,
    gradients,
    quick_jit,
    run_form,
)
from jaxmodels.testing.leaves import floats_of, joined
from jaxmodels.testing.promises import GRADIENTS
from jaxmodels.tree import flatten

ROWS, CHUNK, TOKENS = 2, 4, 6  # small, as compiling a second derivative takes seconds
# Relative errors of a leaf's product with the Hessian: rounding is amplified twice; a missing term
# is off by a tenth or more. Leaves of little influence are measured by the largest one's.
SECOND, SECOND_FLOOR = 2e-3, 1e-2
# Differences of float32 gradients: steps, the error allowed, and the share of the largest leaf's
# product below which a leaf counts for less. Measured: 1e-3.
STEPS, DIFFERENCE, LEAST = (1e-2, 1e-3), 0.05, 0.05
FORWARD = 1e-3


def second_derivatives(lab) -> str:
    """Compare the Hessian times a vector with `scan`, and with differences of gradients.

    The vector and the Hessian span parameters, initial state and inputs, so that gradient penalties
    and Hessian-vector products of each are covered.
    """
    small = _small(lab)
    point = (small.cell, *jax.tree.map(lambda x: x[:ROWS], (lab.warm, lab.xs[:, :TOKENS])))
    reset = np.zeros((ROWS, TOKENS), bool)
    reset[0, CHUNK - 1] = True
    rng = np.random.default_rng(2)
    floats = floats_of(point)
    vector = jax.tree.map(lambda x: rng.standard_normal(x.shape, np.float32), floats)
    d_state, d_ys = jax.tree.map(lambda x: x[:ROWS], lab.cotangents)

    def product(form, floats, weights):
        """Return <gradient of a loss, vector>, and its gradient: the Hessian times the vector."""

        def loss(floats):
            cell, state, xs = joined(floats, point)
            last, ys = run_form(form, cell, state, xs, reset)
            out = floats_of(last), jnp.sin(ys)
            pairs = zip(*map(jax.tree.leaves, (out, weights)), strict=True)
            return sum(jnp.vdot(x, w) for x, w in pairs)

        def along(floats):
            pairs = zip(*map(jax.tree.leaves, (jax.grad(loss)(floats), vector)), strict=True)
            return sum(jnp.vdot(g, v) for g, v in pairs)

        return jax.value_and_grad(along)(floats)

    weights = d_state, d_ys[:, :TOKENS]
    run = quick_jit(product, static_argnums=0)
    scan = jax.device_get(run("scan", floats, weights))[1]
    form, refused = lab.forms[-1], ""
    try:
        got = scan if form == "scan" else jax.device_get(run(form, floats, weights))[1]
    except NotDifferentiable as error:
        form, got, refused = "scan", scan, f"{form} refuses: {error}; scan: "
    parts = ("parameters", "initial state", "inputs")
    pairs = [(f"{form}, {part}", *pair) for part, *pair in zip(parts, got, scan, strict=True)]
    note = compare(pairs, SECOND, SECOND_FLOOR) if form == "call" else ""
    # A state may be written in several ways, as RWKV-4's sums with any exponent, and its gradient
    # follow one of them; what differences say holds for the outputs alone.
    weights = jax.tree.map(np.zeros_like, d_state), weights[1]
    got = jax.device_get(run(form, floats, weights))[1]
    worst = _differences(lambda floats: run(form, floats, weights)[0], floats, got, form)
    return f"{refused}{note}{'; ' if note else ''}differences {worst:.0e}, allowed {DIFFERENCE:g}"


def _small(lab):
    """Return a lab of the same weights and shorter chunks, if the config has them."""
    fields = {name: CHUNK for name in ("chunk_size", "remat_chunk") if _positive(lab.config, name)}
    if not fields:
        return lab
    try:
        return lab.again(dataclasses.replace(lab.config, **fields))
    except (UserError, TypeError):  # the config wants another length
        return lab


def _positive(config, name: str) -> bool:
    return bool(getattr(config, name, None))


def _differences(along, floats, product, form: str) -> float:
    """Return the error of a product against differences of `along`, in the share of one leaf.

    All leaves are moved at once, each so far that it contributes 1 or, where that would be too far,
    less. The better of several steps counts: some gradients bend sharply.
    """
    leaves, tree = jax.tree.flatten(floats)
    slopes = [np.asarray(slope, np.float64) for slope in jax.tree.leaves(product)]
    lengths = np.array([np.linalg.norm(slope) for slope in slopes])
    if not lengths.any():
        return 0.0

    def error(chosen) -> float:
        """Return the error along the chosen leaves."""
        scales = chosen / np.maximum(lengths, LEAST * lengths.max()) ** 2
        moves = [scale * slope for scale, slope in zip(scales, slopes, strict=True)]
        farthest = max(np.linalg.norm(move) for move in moves)
        wanted, errors = float(np.sum(scales * lengths**2)), []
        for step in STEPS:
            ends = []
            for size in (step / farthest, -step / farthest):
                moved = [x + np.float32(size * m) for x, m in zip(leaves, moves, strict=True)]
                ends.append(float(along(jax.tree.unflatten(tree, moved))))
            errors.append(abs((ends[0] - ends[1]) * farthest / (2.0 * step) - wanted))
        return min(errors)

    signs = np.random.default_rng(3).choice([-1.0, 1.0], len(leaves))
    total = error(signs)
    if not total <= DIFFERENCE:
        each = [error(np.eye(len(leaves))[i]) if lengths[i] else 0.0 for i in range(len(leaves))]
        name = list(flatten(floats, "."))[int(np.argmax(each))]
        raise Broken(
            f"{form}: off by {max(each):.1e} of the differences of its gradient along {name}, "
            f"allowed {DIFFERENCE:g}"
        )
    return total


def forward_mode(lab) -> str:
    """Compare `jax.jvp` of `scan` with its gradient, along that gradient."""
    _, gradient = lab.sequence("scan", reset=lab.reset)
    d_out = lab.cotangents

    def tangent(g):
        return g / max(float(np.linalg.norm(g)), 1e-30)

    def forward(floats, tangents):
        def run(floats):
            cell, state, xs = joined(floats, point)
            last, ys = cell.scan(state, xs, lab.reset)
            return floats_of(last), ys

        return jax.jvp(run, (floats,), (tangents,))[1]

    point = (lab.cell, lab.warm, lab.xs)
    out = quick_jit(forward)(floats_of(point), jax.tree.map(tangent, gradient))
    pairs = zip(*map(jax.tree.leaves, jax.device_get((out, d_out))), strict=True)
    got = sum(float(np.vdot(np.float64(x), d)) for x, d in pairs)
    want = sum(float(np.linalg.norm(g)) for g in jax.tree.leaves(gradient))
    return compare([("scan", np.float64(got), np.float64(want))], FORWARD)


def sharded_gradients(lab) -> str:
    """Compare gradients inside `jax.shard_map`, rows on several devices, with those outside.

    The state is made inside, as a loss does; JAX checks which values differ between devices.
    """
    devices = jax.devices()[:BATCH] if jax.device_count() >= BATCH else jax.devices()[:1]
    rows, every = PartitionSpec("rows"), PartitionSpec()
    mesh = Mesh(np.array(devices), ("rows",))
    pairs = []
    for form in lab.forms:
        time = lab.chunk if form == "call" else lab.time
        d_state, d_ys = lab.cotangents[0], lab.cotangents[1][:, :time]
        xs, reset = lab.xs[:, :time], lab.reset[:, :time]

        def inside(cell, xs, reset, d_state, d_ys, form=form):
            def from_start(cell, _, xs):
                state = cell.initial_state(xs.shape[0])
                return run_form(form, cell, state, xs, reset)

            (_, ys), (d_cell, _, d_xs) = gradients(from_start)(cell, (), xs, (d_state, d_ys))
            return ys, d_cell, d_xs

        run = jax.shard_map(
            inside, mesh=mesh, in_specs=(every, *[rows] * 4), out_specs=(rows, every, rows)
        )
        got = jax.device_get(quick_jit(run)(lab.cell, xs, reset, d_state, d_ys))
        fresh = lab.cell.initial_state(BATCH)
        (_, ys), (d_cell, _, d_xs) = lab.sequence(form, time, lab.reset, state=fresh)
        names = ("ys", "parameters", "inputs")
        pairs += [
            (f"{form}, {name}", *pair)
            for name, *pair in zip(names, got, (ys, d_cell, d_xs), strict=True)
        ]
    return f"{len(devices)} devices: {compare(pairs, GRADIENTS, GRADIENT_FLOOR)}"


DERIVATIVES = {
    "second derivatives": second_derivatives,
    "forward mode: jvp of scan": forward_mode,
    "gradients inside shard_map": sharded_gradients,
}
