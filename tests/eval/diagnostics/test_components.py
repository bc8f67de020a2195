"""Gradients and ablations of components, on a small hybrid."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from eval.diagnostics import components
from eval.diagnostics.reading import BLOCK, ROWS, token_losses
from jaxmodels.tree import flatten
from tests.eval.small_ground import TOKENIZER, small_model
from tests.eval.tiny_bytes import Toy


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def tokens():
    return np.random.default_rng(0).integers(0, TOKENIZER.vocab_size, (ROWS, 2 * BLOCK + 1))


def test_component_norms():
    grads = {"a/kernel": jnp.full((2, 3), 2.0), "a/bias": jnp.array([1.0]), "b/x": jnp.zeros(4)}
    norms = components.component_norms(grads, lambda name: name.split("/")[0] + "/matrix")
    assert norms["a"] == {"raw": 5.0, "rms": pytest.approx(5.0 / 7**0.5), "count": 7}
    assert norms["b"] == {"raw": 0.0, "rms": 0.0, "count": 4}


def test_ratios_raw_and_rms():
    norms = {"rwkv": {"raw": 4.0, "rms": 0.4}, "mamba": {"raw": 2.0, "rms": 0.1}}
    assert components.ratios(norms) == {"raw": 2.0, "rms": 4.0}
    assert components.ratios({"rwkv": norms["rwkv"]}) is None
    zero = {"raw": 0.0, "rms": 0.0}
    assert components.ratios({"rwkv": norms["rwkv"], "mamba": zero})["raw"] == math.inf
    assert math.isnan(components.ratios({"rwkv": zero, "mamba": zero})["raw"])


def test_phase_shift_depends_on_step_sizes():
    quiet = {"cell/dt_bias": jnp.full(4, 2.0), "cell/in_proj/kernel": jnp.full((2, 2), 0.5)}
    assert components.phase_shift(quiet).value == pytest.approx(4.0)
    assert components.phase_shift(quiet).outcome == "pass"
    loud = quiet | {"cell/dt_bias": jnp.full(4, 2.6)}
    assert components.phase_shift(loud).outcome == "warn"
    assert components.phase_shift({"kernel": jnp.ones(3)}).outcome == "skip"


def test_gradients_of_every_component(model, tokens):
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    batch |= {"weights": np.ones((ROWS, 2 * BLOCK), np.float32)}
    batch |= {"reset": np.zeros((ROWS, 2 * BLOCK), bool)}
    grads = components.gradients(model, batch)
    assert grads.keys() == flatten(model).keys()
    norms = components.component_norms(grads, model.parameter_label)
    assert norms.keys() == {"rwkv", "mamba", "attention", "channel", "fusion", "embed", "head"}
    assert sum(n["count"] for n in norms.values()) == jaxmodels.count_parameters(model)
    assert all(n["raw"] > 0 for n in norms.values())


def test_mean_loss_is_weighted():
    toy = Toy()
    tokens = np.random.default_rng(0).integers(0, 256, (2, 9), dtype=np.int32)
    weights = np.ones((2, 8), np.float32)
    weights[1, 3:] = 0.0
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights}
    batch |= {"reset": np.zeros((2, 8), bool)}
    _, paid = token_losses(toy, toy.initial_state(2), tokens)
    expected = (paid * weights).sum() / 11
    assert float(components.mean_loss(toy, batch)) == pytest.approx(expected, rel=1e-5)
    grads = components.gradients(toy, batch)
    step = 1e-2 / float(jnp.linalg.norm(grads["head"]))
    moved = [
        components.unflatten(
            toy, flatten(toy) | {"head": toy.head[...] + sign * step * grads["head"]}
        )
        for sign in (-1, 1)
    ]
    below, above = (float(components.mean_loss(m, batch)) for m in moved)
    square = float(jnp.sum(grads["head"] ** 2))
    assert (above - below) / (2 * step) == pytest.approx(square, rel=0.01)


@pytest.mark.parametrize("component", ["rwkv", "mamba"])
@pytest.mark.parametrize("path_norm", [True, False])
def test_ablated_path_leaves_the_other_unchanged(component, path_norm):
    model = small_model(path_norm=path_norm, num_layers=1, attention_layers=())
    # RWKV's read-out starts at zero.
    model = jax.tree.map(lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), model)
    ablated = components.without(model, component)
    x = jax.random.normal(jax.random.key(0), (1, 16))
    whole, cut = model.layer(0).mixer, ablated.layer(0).mixer
    state = whole.initial_state(1)
    _, outs = whole._paths("step", state, x, None)
    other, share = {"rwkv": ("mamba", 0.4), "mamba": ("rwkv", 0.6)}[component]
    expected = share * getattr(whole, other).normalize(outs[other])
    assert float(jnp.abs(expected).max()) > 1e-3
    np.testing.assert_allclose(cut.step(state, x)[1], expected, atol=1e-6)


def test_ablation_of_attention_channel_and_adapter():
    model = jax.tree.map(lambda x: x + 0.1, small_model(adapter_rank=2))
    x = jax.random.normal(jax.random.key(0), (1, 16))
    anchor, cut = (m.layer(1).mixer for m in (model, components.without(model, "attention")))
    assert jnp.any(anchor.step(anchor.initial_state(1), x)[1] != 0.0)
    assert not jnp.any(cut.step(cut.initial_state(1), x)[1])
    layer = components.without(model, "channel").layer(0)
    np.testing.assert_array_equal(layer._after(x, 0.0 * x), x)
    assert jnp.any(model.layer(0)._after(x, 0.0 * x) != x)


def test_dominance_measures_the_loss_increase(model, tokens):
    found = components.dominance(model, tokens)
    assert found["rises"].keys() == {"rwkv", "mamba", "attention", "channel"}
    assert found["loss"] == token_losses(model, model.initial_state(ROWS), tokens)[1].mean()
    ablated = components.without(model, "mamba")
    loss = token_losses(ablated, model.initial_state(ROWS), tokens)[1].mean()
    assert found["rises"]["mamba"] == pytest.approx(loss - found["loss"], abs=1e-6) != 0.0
    assert components.without(model, "gla") is None


def test_shares_and_their_text():
    shares, says = components._shares({"rwkv": 0.3, "mamba": 0.1, "channel": 9.0})
    assert shares == {"rwkv": pytest.approx(0.75), "mamba": pytest.approx(0.25)}
    assert says.startswith("rwkv carries 75%") and "dominates" not in says
    assert "mamba" in components._shares({"rwkv": -0.2, "mamba": 0.1})[1]
    assert "dominates" in components._shares({"rwkv": -0.2, "mamba": 0.1})[1]
    assert components._shares({"rwkv": 0.0, "mamba": -0.1})[0] == {}
    assert "no two paths" in components._shares({"rwkv": 1.0})[1]


def test_components_of_a_model_without_labels():
    toy = Toy()
    norms = components.component_norms(flatten(toy), components.labeller(toy))
    assert norms.keys() == {"table", "kernel", "head"}
