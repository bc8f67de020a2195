"""GroundThink: layouts, contract, parameter labels, and the original variants."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.cells.base import where_reset
from jaxmodels.errors import UserError
from jaxmodels.models.groundthink import PRESETS
from jaxmodels.models.segments import segments_of
from jaxmodels.testing.lab import quick_jit, shaken
from jaxmodels.tree import flatten
from train.optim.weight_decay import decay_factors

VOCAB, BATCH, TIME = 13, 2, 15
# Two orders of summation over 15 tokens and a few layers, relative to the largest entry.
CLOSE = 1e-4


def config(name="groundthink", **changes):
    small = {"vocab_size": VOCAB, "width": 16, "head_size": 4, "attn_window": 6}
    small |= {"num_layers": 4, "state_dim": 4, "chunk_size": 4, "gamma": 0.3}
    return jaxmodels.make_config(name, **small | changes)


def count(name, **changes):
    """Parameters, without computing them."""
    wanted = jaxmodels.make_config(name, **changes)
    return jaxmodels.count_parameters(jax.eval_shape(lambda: jaxmodels.create(wanted)))


@pytest.mark.parametrize(
    ("name", "changes", "parameters"),
    [
        ("groundthink", {}, 15_987_440),  # 15.99M
        ("groundthink/8m_iso", {}, 11_425_768),  # 11.43M
        ("groundthink", {"width": 192}, 9_266_924),  # 9.3M
        ("groundthink/v3_as_written", {}, 11_040_011),
    ],
)
def test_parameter_counts(name, changes, parameters):
    """The source gives the first three to three digits, and the last exactly."""
    assert count(name, **changes) == parameters


def test_presets():
    """G-12: every one a valid config; the two that no other test builds."""
    assert all(jaxmodels.make_config(f"groundthink/{name}").kinds for name in PRESETS)
    assert 5e6 < count("groundthink/v020") < 6e6 < count("groundthink/v3_repaired") < 12e6
    wide, v020 = (jaxmodels.make_config(f"groundthink/{x}") for x in ("v020_wide", "v020"))
    assert dataclasses.replace(wide, num_layers=6, width=256) == v020
    assert (wide.num_layers, wide.width) == (4, 384)
    assert count("groundthink/v020_wide") == 8_308_996  # the source: 8M


def test_layouts_and_anchors():
    """G-03, G-06, G-11: exactly the layers asked for, and none where none is asked for."""
    assert jaxmodels.make_config("groundthink").kinds[6] == "attention"
    for name, anchor in (("v3_shallow", 3), ("v3_wide", 4)):
        kinds = jaxmodels.make_config(f"groundthink/{name}").kinds
        assert [i for i, kind in enumerate(kinds) if kind == "attention"] == [anchor]
    assert "attention" not in config(attention_layers=()).kinds
    short = {"hybrid": "H", "rwkv": "R", "mamba": "M", "attention": "A"}

    def drawn(layout, anchors=()):
        kinds = config(layout=layout, num_layers=6, attention_layers=anchors).kinds
        return "".join(short[kind] for kind in kinds)

    assert drawn("parallel") == "HHHHHH"
    assert drawn("interleaved", (2,)) == "RMAMRM"
    assert drawn("sequential") == "RRRMMM"
    assert drawn("3:1") == "RRRMRR"
    assert drawn("1:3") == "RMMMRM"
    assert drawn("attention") == "AAAAAA"


def test_segments():
    assert segments_of(tuple("HHHHHHAHHHHH")) == [(("H",), 6), (("A",), 1), (("H",), 5)]
    assert segments_of(tuple("RMRMRMAMRMRM")) == [
        (("R", "M"), 3),
        (("A",), 1),
        (("M", "R"), 2),
        (("M",), 1),
    ]
    assert segments_of(tuple("RRRMRRRMRR")) == [(("R", "R", "R", "M"), 2), (("R",), 2)]


CASES = {
    "parallel": {},
    "interleaved": {"layout": "interleaved", "num_layers": 5},
    "everything else": {
        "rwkv_version": 7,
        "mamba_version": 1,
        "learn_alpha": True,
        "write_gate": True,
        "adapter_rank": 2,
        "logit_cap": 5.0,
        "tie_embeddings": False,
        "init": "spread",
        "num_layers": 2,
        "attention_layers": (),
        "remat": True,
    },
    "v3_as_written": {"num_layers": 3, "norm_every": 5},
    "v020": {"num_layers": 2, "norm_every": 5},
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A model that hides nothing behind zeros, tokens, resets, and a state that is not fresh."""
    name = "groundthink" + (f"/{request.param}" if request.param in PRESETS else "")
    model = shaken(jaxmodels.create(config(name, **CASES[request.param])), 0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (BATCH, TIME)).astype(np.int32)
    reset = rng.random((BATCH, TIME)) < 0.15
    reset[0, 7] = True
    call = quick_jit(lambda model, *args: model(*args))
    state, _ = call(model, model.initial_state(BATCH), tokens[:, ::-1], reset)
    return model, tokens, reset, call, state


def near(got, want):
    largest = max(float(np.abs(w).max()) for w in jax.tree.leaves(want))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(np.abs(w).max()), 1e-3 * largest)
        assert np.abs(np.asarray(g) - np.asarray(w)).max() <= CLOSE * scale


def test_call_equals_steps(case):
    model, tokens, reset, call, state = case
    last, out = call(model, state, tokens, reset)
    assert out.logits.shape == (BATCH, TIME, VOCAB) and out.logits.dtype == jnp.float32
    initial = model.initial_state(BATCH)
    chex.assert_trees_all_equal_shapes_and_dtypes(initial, last)
    assert all(x.dtype == jnp.float32 and x.shape[0] == BATCH for x in jax.tree.leaves(initial))
    step = quick_jit(lambda model, *args: model.step(*args))
    for t in range(TIME):
        state = where_reset(reset[:, t], initial, state)
        state, one = step(model, state, tokens[:, t])
        near(one.logits, out.logits[:, t])


def test_segments_equal_one_call_and_reset_equals_fresh_start(case):
    """G-14: f([A; B]) is f(A), f(B); behind a new document B knows nothing of A."""
    model, tokens, _, call, state = case
    none = np.zeros((BATCH, TIME), bool)
    _, whole = call(model, state, tokens, none)
    half, first = call(model, state, tokens[:, :7], none[:, :7])
    _, second = call(model, half, tokens[:, 7:], none[:, 7:])
    near(np.concatenate([first.logits, second.logits], 1), whole.logits)
    new = none[:, 7:].copy()
    new[:, 0] = True
    _, after = call(model, half, tokens[:, 7:], new)
    _, fresh = call(model, model.initial_state(BATCH), tokens[:, 7:], none[:, 7:])
    near(after.logits, fresh.logits)
    assert np.abs(after.logits - second.logits).max() > 1e-3


def test_causality_is_bit_exact(case):
    model, tokens, reset, call, state = case
    _, out = call(model, state, tokens, reset)
    other = tokens.copy()
    other[:, 9:] = (other[:, 9:] + 1) % VOCAB
    _, changed = call(model, state, other, reset)
    np.testing.assert_array_equal(out.logits[:, :9], changed.logits[:, :9])
    assert np.abs(out.logits[:, 9:] - changed.logits[:, 9:]).max() > 1e-3


def test_intermediates_equal_call(case):
    model, tokens, reset, call, state = case
    last, _ = call(model, state, tokens, reset)
    seen_last, seen = quick_jit(lambda model, *args: model.intermediates(*args))(
        model, state, tokens, reset
    )
    near(seen_last, last)
    assert len(seen) == model.config.num_layers
    for kind, layer in zip(model.kinds, seen, strict=True):
        paths = {"hybrid": {"rwkv", "mamba"}, "attention": set()}.get(kind, {kind})
        states = {name.removesuffix("_state") for name in layer if name.endswith("_state")}
        assert states == paths
        for name in paths:
            retention = layer[f"{name}_retention"]
            assert retention.shape[:2] == (BATCH, TIME)
            assert 0.0 <= retention.min() and retention.max() <= 1.0


def test_every_parameter_has_gradient_and_label(case):
    """G-20, G-21: a component and a role each; only linear maps decay."""
    model, tokens, reset, _, state = case
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "reset": reset[:, :-1]}
    batch["weights"] = np.ones_like(tokens[:, 1:], np.float32)
    grads = quick_jit(jax.grad(lambda model: model.loss_sums(state, batch)[1]["next_token"]))(model)
    labels = {name: model.parameter_label(name) for name in flatten(model)}
    components = {"rwkv", "mamba", "attention", "gla", "fusion", "channel", "embed", "head"}
    roles = {"matrix", "dynamics", "gate", "norm"}
    factors = decay_factors(model)
    idle = ("conv_taps", "grounding_scale", "idle_h0") if not model.config.grounding else ()
    for name, grad in flatten(grads).items():
        component, role = labels[name].split("/")
        assert component in components and role in roles
        assert np.isfinite(grad).all()
        assert (np.abs(grad).max() > 0) != name.endswith(idle or "no such name")
        if np.any(factors[name]):
            assert role == "matrix"
        elif name.endswith("kernel"):
            assert role in ("gate", "dynamics")
    found = {label.split("/")[0] for label in labels.values()}
    assert {"embed", "head", "channel"} < found
    assert {kind for kind in model.kinds if kind != "hybrid"} <= found


def test_parameter_labels():
    labels = jax.eval_shape(lambda: jaxmodels.create(config(learn_alpha=True, write_gate=True)))
    labels = {name: labels.parameter_label(name) for name in flatten(labels)}
    for part, label in {
        "rwkv/cell/decay": "rwkv/dynamics",
        "mamba/cell/A_log": "mamba/dynamics",
        "mamba/cell/in_proj/kernel": "mamba/matrix",
        "rwkv/cell/gate/kernel": "rwkv/gate",
        "channel/receptance/kernel": "channel/gate",
        "rwkv/cell/receptance/kernel": "rwkv/matrix",
        "mixer/alpha": "fusion/gate",
        "mixer/write_bias": "fusion/gate",
        "gamma_mixer": "fusion/gate",
        "norm_channel/scale": "channel/norm",
        "rwkv/norm/scale": "rwkv/norm",
        "mixer/query/kernel": "attention/matrix",
        "embed/table": "embed/matrix",
    }.items():
        found = {name: got for name, got in labels.items() if name.endswith(part)}
        assert found and set(found.values()) <= {label, "attention/norm"}, (part, found)


def test_groups_of_the_state_by_version():
    """Four groups where the norm on reading has groups; the cells' own otherwise."""
    assert [config().mixer("hybrid").state_groups, config().mixer("rwkv").state_groups] == [4, 4]
    own = config(rwkv_version=7, mamba_version=1).mixer("hybrid")
    assert own.state_groups == own.width // own.head_size
    kept = config(rwkv_version=7, state_norm="per_token").mixer("hybrid")
    assert kept.state_groups == 4


def test_residual_scales_start_at_gamma():
    """G-08: a hundredth of what the halves give, so that a layer begins as the identity."""
    for gamma in (0.01, 0.1, 1.0):
        model = jaxmodels.create(config(gamma=gamma, num_layers=1, attention_layers=()))
        layer, x = model.layer(0), jnp.ones((BATCH, 16))
        _, y = layer.step(layer.initial_state(BATCH), x)
        _, mixed = layer.mixer.step(layer.initial_state(BATCH), layer.norm_mixer(x))
        after = x + gamma * mixed
        want = after + gamma * layer.channel(layer.norm_channel(after), "float32")
        np.testing.assert_allclose(y, want, atol=1e-6)


def test_adapter_starts_at_zero_and_is_low_rank():
    """G-17: less than 100,000 parameters on the twelve layers."""
    added = count("groundthink", adapter_rank=8) - count("groundthink")
    assert 0 < added < 100_000
    model = jaxmodels.create(config(adapter_rank=2, num_layers=1, layout="gla"))
    call = quick_jit(lambda model: model(model.initial_state(1), np.arange(6)[None])[1].logits)
    adapter = model.layers[0][0].adapter
    before, up = call(model), adapter.up[...]
    adapter.up[...] = 7.0 * up
    np.testing.assert_array_equal(call(model), before)
    adapter.down[...] = jnp.ones_like(adapter.down[...])
    assert np.abs(call(model) - before).max() > 1e-3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention_layers": (4,)}, "attention_layers: 4 is not a layer from 0 to 3"),
        ({"layout": "braided"}, "layout must be one of parallel, interleaved"),
        ({"state_groups": 5}, "must divide"),
        ({"state_groups": 0}, "state_groups must be a positive integer, got 0"),
        ({"state_groups": 1, "rwkv_version": 7}, "state_groups=1: on reading, RWKV-7 normalizes"),
        ({"gamma": -0.1}, "gamma must be a number, 0 or more"),
    ],
)
def test_invalid_configs_are_rejected(changes, words):
    with pytest.raises(UserError, match=words):
        config(**changes)


def test_config_json_round_trip():
    wanted = config(attention_layers=(1,), decay_groups=((0.5, 0.9), (0.5, 0.99)))
    assert jaxmodels.config_from_json(jaxmodels.config_to_json(wanted)) == wanted
