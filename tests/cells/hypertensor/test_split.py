"""A field whose tensors are split over devices answers and learns as the whole one (F-12)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from jaxmodels.cells.hypertensor import apply_gradients, combine, gradients, random_field, read
from jaxmodels.cells.hypertensor.candidates import build_quantizer, candidates
from jaxmodels.cells.hypertensor.relocation import dead_tensors, plant
from jaxmodels.cells.hypertensor.split import AXIS
from jaxmodels.testing.lab import quick_jit
from tests.cells.hypertensor.test_scale import BASE, clustered

ROUNDING = 2e-5  # sums over tensors, device by device; products of smaller matrices
SMALL = dataclasses.replace(BASE, tensors=256, geometry_rate=0.05)


def on_devices(devices, function, field, *rest):
    """Return function(part, *rest) -> (part, what is equal on all devices), over devices."""
    mesh = Mesh(np.array(jax.devices()[:devices]), AXIS)
    specs = jax.tree.map(lambda leaf: P(AXIS) if leaf.ndim else P(), field)
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(specs, *(P() for _ in rest)),
        out_specs=(specs, P()),
        check_vma=False,
    )
    return jax.device_get(quick_jit(mapped)(field, *rest))


def both(devices, function, field, *rest):
    """Return function(field, *rest) on one device, and on several."""
    return jax.device_get(quick_jit(function)(field, *rest)), on_devices(
        devices, function, field, *rest
    )


def learn(c, field, x, g):
    reading = read(c, field, x, sparse=True)
    loss = jnp.arange(len(x), dtype=jnp.float32)
    grads, dx = gradients(c, field, reading, x, g, loss, want_inputs=True)
    field = apply_gradients(c, field, grads, len(x))
    weights = jnp.sort(reading.weight, -1)[:, -c.nearest :]
    if reading.split:
        weights = jax.lax.all_gather(reading.weight, AXIS, axis=1, tiled=True)
        weights = jnp.sort(weights, -1)[:, -c.nearest :]
    return field, (combine(field, reading), dx, weights)


@pytest.mark.parametrize(
    ("devices", "changes"),
    [
        (2, {}),
        (8, {"storage": "float16"}),
        (2, {"storage": "float16_kahan"}),
        (8, {"weighting": "inverse", "through_weights": False, "top_k": 99}),
        (2, {"weighting": "inverse", "distance": "planar", "through_weights": False}),
    ],
    ids=str,
)
def test_a_split_field_answers_and_learns_as_the_whole(devices, changes):
    c = dataclasses.replace(SMALL, **changes)
    field, x = clustered(c)
    # An input on a plane: its distance is 0, or of a rounding error.
    offset = -field.normal[7].astype(jnp.float32) @ x[0]
    field = field.replace(offset=field.offset.at[7].set(offset.astype(c.dtype)))
    g = np.random.default_rng(1).standard_normal((len(x), c.outputs)).astype(np.float32)
    one, several = both(devices, lambda f, x, g: learn(c, f, x, g), field, x, g)
    own = [f.name for f in dataclasses.fields(field) if f.name != "rest"]
    names = ["y", "dx", "weights", *own]
    pairs = zip(jax.tree.leaves(one[1]), jax.tree.leaves(several[1]), strict=True)
    pairs = [*pairs, *((getattr(one[0], n), getattr(several[0], n)) for n in names[3:])]
    for name, (want, got) in zip(names, pairs, strict=True):
        want, got = (np.asarray(a, np.float32) for a in (want, got))
        if name in ("bands", "updates"):
            np.testing.assert_array_equal(got, want, err_msg=name)
        elif c.storage == "float32" or name in ("y", "dx", "weights"):
            atol = ROUNDING * np.abs(want).max()
            np.testing.assert_allclose(got, want, rtol=ROUNDING, atol=atol, err_msg=name)
        else:  # the same random bits: float32 sums that differ seldom fall to another side
            assert (got != want).mean() < 0.01, name
            np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-3, err_msg=name)
    for name in field.rest or ():
        want, got = (np.asarray(f.whole(name)) for f in (one[0], several[0]))
        np.testing.assert_allclose(got, want, rtol=ROUNDING, atol=ROUNDING, err_msg=name)


def test_of_equal_distances_at_rank_k_the_lower_number_answers():
    """Four tensors in the same place, on two devices; three answer."""
    c = dataclasses.replace(SMALL, tensors=4, top_k=3)
    field = random_field(c, jax.random.key(0))
    every = jnp.arange(4)
    x = jnp.ones((4, c.inputs)) / c.inputs**0.5
    field = quick_jit(lambda f: plant(c, f, every, x, jnp.eye(4, c.outputs), every >= 0))(field)

    def answer(field, x):
        return field, combine(field, read(c, field, x, sparse=True))

    one, several = both(2, answer, field, x[:1])
    np.testing.assert_allclose(one[1], [[1 / 3, 1 / 3, 1 / 3, 0, 0, 0]], atol=1e-6)
    np.testing.assert_array_equal(several[1], one[1])


def test_cells_and_dead_tensors_are_those_of_the_whole():
    c = SMALL
    field, x = clustered(c)
    usage = jnp.asarray(np.random.default_rng(2).integers(0, 9, c.tensors), jnp.float32)
    field = field.replace(usage=usage)  # with ties
    outputs = np.eye(12, c.outputs, dtype=np.float32)

    def search(field, x, outputs):
        quantizer = build_quantizer(c, field, 8, jax.random.key(0), sample=100)
        found = combine(field, read(c, field, x, candidates=candidates(quantizer, x, 3)))
        index, dead = dead_tensors(c, field, 12, 0.5, 0.0)
        field = plant(c, field, index, x[:12], outputs, dead)
        return field, (quantizer, index, dead, found)

    one, several = both(8, search, field, x, outputs)
    *want, y = jax.tree.leaves(one[1])
    *got, split_y = jax.tree.leaves(several[1])
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(split_y, y, atol=ROUNDING * np.abs(y).max())
    assert one[1][2].any()
    for a, b in zip(jax.tree.leaves(several[0]), jax.tree.leaves(one[0]), strict=True):
        np.testing.assert_array_equal(a, b)
