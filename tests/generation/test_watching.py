"""What a token does to the state, against NumPy in float64, and the names of its parts."""

import jax
import numpy as np
import pytest

import jaxmodels
from jaxmodels.generation.watching import parts_of, watch

SMALL = {
    "rwkv/7": {"width": 16, "num_layers": 2, "vocab_size": 11},
    "transformer": {"width": 16, "num_layers": 2, "vocab_size": 11, "window": 8},
    "groundthink": {"width": 32, "num_layers": 5, "vocab_size": 11},
    "prernk": {
        "hidden_size": 16,
        "abstraction_sizes": (16, 8),
        "relation_size": 8,
        "vocab_size": 11,
    },
    "rnk": {"width": 16, "hidden_size": 16, "num_layers": 2},
}


@pytest.mark.parametrize("name", SMALL)
def test_norm_change_and_what_is_kept(name):
    model = jaxmodels.create(name, seed=1, **SMALL[name])
    step, seen = jax.jit(lambda model, *args: model.step(*args)), jax.jit(watch)
    state = model.initial_state(2)
    for token in (3, 5, 7):
        before = state
        state, out = step(model, before, np.full(2, token, np.int32))
    got, parts = seen(model, before, state, out), parts_of(model)
    assert {x.shape for x in (got["norm"], got["change"], got["kept"])} == {(2, len(parts))}
    for index, part in enumerate(parts):
        old, new = (jax.tree.leaves(x)[part.leaf] for x in (before, state))
        if part.row is not None:
            old, new = old[:, part.row], new[:, part.row]
        a, b = (np.asarray(x, np.float64).reshape(2, -1) for x in (old, new))
        norm, square = np.sqrt((b * b).sum(1)), (a * a).sum(1)
        change = np.sqrt(((b - a) ** 2).sum(1)) / np.maximum(norm, 1e-12)
        kept = np.where(square > 1e-12, (a * b).sum(1) / np.maximum(square, 1e-12), 0)
        np.testing.assert_allclose(got["norm"][:, index], norm, rtol=1e-5)
        np.testing.assert_allclose(got["change"][:, index], change, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(got["kept"][:, index], kept, rtol=1e-4, atol=1e-6)
    if name == "rnk":
        np.testing.assert_allclose(got["intent"].sum(-1), 1.0, rtol=1e-6)
        np.testing.assert_allclose(got["plan_norm"], np.linalg.norm(state.plan, axis=-1), rtol=1e-5)


def test_parts_have_the_depth_of_their_layer():
    model = jaxmodels.create("groundthink", **SMALL["groundthink"])
    parts = parts_of(model)
    assert [part.layer for part in parts] == sorted(part.layer for part in parts)
    for depth, kind in enumerate(model.kinds):
        names = {part.name for part in parts if part.layer == depth}
        assert ("keys" in names) == (kind == "attention")
    # The row is that layer's own: it changes with it alone.
    state = model.initial_state(1)
    for part in parts:
        leaves = [
            jax.tree.leaves(model.layer_state(state, part.layer)),
            jax.tree.leaves(state)[part.leaf][:, part.row],
        ]
        assert leaves[1].shape in {x.shape for x in leaves[0]}
    assert not any("position" in part.name for part in parts)
    rnk = {part.name for part in parts_of(jaxmodels.create("rnk", **SMALL["rnk"]))}
    assert rnk == {"mamba conv", "mamba ssm", "plan", "context", "hidden"}
