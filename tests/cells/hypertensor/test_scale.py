"""Large fields: candidates by cells, learning in place (F-12)."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from eval.fields.budget import measure
from jaxmodels.cells.hypertensor import FieldConfig, combine, random_field, read
from jaxmodels.cells.hypertensor.candidates import (
    Quantizer,
    build_quantizer,
    candidates,
    recall,
)
from jaxmodels.cells.hypertensor.relocation import plant
from jaxmodels.cells.hypertensor.update import update_rows
from jaxmodels.errors import UserError
from jaxmodels.testing.lab import quick_jit

BASE = FieldConfig(32, 6, tensors=2048, top_k=16, storage="float32", temperature=0.1)


def clustered(c=BASE, clusters=64, seed=0):
    """A field with tensors at clustered contexts, and inputs of the same clusters."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, c.inputs))

    def draw(n):
        x = centres[rng.integers(0, clusters, n)] + 0.4 * rng.standard_normal((n, c.inputs))
        return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)

    outputs = rng.standard_normal((c.tensors, c.outputs)).astype(np.float32)
    return quick_jit(lambda x, y: planted(c, x, y))(draw(c.tensors), outputs), draw(32)


def planted(c, x, outputs):
    every = jnp.arange(c.tensors)
    return plant(c, random_field(c, jax.random.key(0)), every, x, outputs, every >= 0)


def test_candidates_find_nearly_all_of_the_nearest():
    field, x = clustered()
    exact = read(BASE, field, x, sparse=True)
    quantizer = quick_jit(lambda f, k: build_quantizer(BASE, f, 45, k))(field, jax.random.key(1))
    held = np.asarray(quantizer.members).ravel()
    assert len(set(held.tolist()) - {-1}) + int(quantizer.lost) == 2048
    rates = []
    for probes in (1, 4, 45):
        near = candidates(quantizer, x, probes)
        got = quick_jit(lambda f, x, n: read(BASE, f, x, candidates=n))(field, x, near)
        rates.append(float(recall(got.index, exact.index)))
    assert rates == sorted(rates) and rates[1] > 0.9
    if int(quantizer.lost) == 0:
        assert rates[2] == 1.0
        np.testing.assert_allclose(combine(field, got), combine(field, exact), atol=1e-5)


def test_cells_count_the_tensors_that_they_cannot_hold():
    field, _ = clustered(clusters=3)
    build = quick_jit(lambda f, k: build_quantizer(BASE, f, 45, k, slack=1.0))
    quantizer = build(field, jax.random.key(1))
    held = int((np.asarray(quantizer.members) >= 0).sum())
    assert held + int(quantizer.lost) == 2048 and int(quantizer.lost) > 0


def test_learning_in_place_touches_the_answering_tensors_alone():
    c = dataclasses.replace(BASE, storage="float16", tensors=128)
    field, x = clustered(c)
    quantizer = quick_jit(lambda f, k: build_quantizer(c, f, 8, k))(field, jax.random.key(0))
    near = candidates(quantizer, x[:1], 3)[0]
    index = np.asarray(read(c, field, x[:1], candidates=near[None]).index)[0]
    learn = jax.jit(
        lambda f, x: update_rows(c, f, x, lambda y: (y.sum(), jnp.ones(6)), candidates=near)
    )
    after, _ = learn(field, x[0])
    changed = np.asarray(after.columns != field.columns).any((1, 2))
    assert set(np.flatnonzero(changed)) <= set(index.tolist()) and changed.any()


def test_missing_candidates_do_not_undo_an_update():
    """A cell with fewer tensors than K is padded with -1, which is no tensor, not even tensor 0."""
    c = dataclasses.replace(BASE, tensors=32, geometry_rate=0.1)
    field, x = clustered(c)
    learn = quick_jit(
        lambda f, x, near: update_rows(c, f, x, lambda y: (y.sum(), jnp.ones(6)), candidates=near)
    )
    want, _ = learn(field, x[0], jnp.array([0, 5]))
    got, _ = learn(field, x[0], jnp.array([0, 5, *[-1] * 20]))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    changed = np.asarray(got.columns != field.columns).any((1, 2))
    assert np.flatnonzero(changed).tolist() == [0, 5]


def test_empty_cells_are_not_looked_into():
    c = dataclasses.replace(BASE, tensors=64)
    field, x = clustered(c)
    centres = jnp.stack([x[0], -x[0]])
    quantizer = Quantizer(centres, jnp.array([[-1, -1], [3, -1]]), jnp.int32(0))
    near = candidates(quantizer, x[:1], 1)
    np.testing.assert_array_equal(near, [[3, -1]])
    assert np.isfinite(combine(field, read(c, field, x[:1], candidates=near))).all()


@pytest.mark.parametrize(("cells", "slack"), [(0, 2.0), (4096, 2.0), (16, 0.5)])
def test_bad_quantizers_get_one_line(cells, slack):
    c = dataclasses.replace(BASE, tensors=64)
    field, _ = clustered(c)
    with pytest.raises(UserError, match="cells"):
        build_quantizer(c, field, cells, jax.random.key(0), slack=slack)


def test_large_fields_are_read_in_blocks(monkeypatch):
    field, x = clustered(dataclasses.replace(BASE, tensors=100))
    c = dataclasses.replace(BASE, tensors=100)
    whole = read(c, field, x, sparse=True)
    module = importlib.import_module("jaxmodels.cells.hypertensor.predict")
    monkeypatch.setattr(module, "BLOCK", 32)  # and 4 tensors over
    blocks = quick_jit(lambda f, x: read(c, f, x, sparse=True))(field, x)
    np.testing.assert_array_equal(blocks.index, whole.index)
    np.testing.assert_allclose(blocks.weight, whole.weight, atol=1e-5)


def test_budget_is_held_and_learning_takes_place_in_it():
    got = measure(640, 64, 96, 8)
    assert got["gib_held"] < 1.1 * got["gib_by_formula"]
    assert got["losses"][0] > got["losses"][1] > got["losses"][2]
