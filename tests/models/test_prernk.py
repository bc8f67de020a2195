"""PRERNK: contract, the five losses, and corrections of the original."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxmodels
from jaxmodels.cells.unified import UnifiedCell, UnifiedConfig
from jaxmodels.errors import UserError
from jaxmodels.models.contract import loss_weights, target_counts
from jaxmodels.models.prernk_terms import ramp
from jaxmodels.testing.lab import names, quick_jit

BATCH, TIME, VOCAB, LABELS, EVERY = 2, 12, 11, 5, 4
SMALL = {
    "vocab_size": VOCAB,
    "width": 12,
    "hidden_size": 16,
    "symbol_slots": 4,
    "role_slots": 2,
    "relation_size": 8,
    "abstraction_sizes": (16, 8, 4),
    "relations_every": EVERY,
}
EVERYTHING = {
    "symbolic": "cross_entropy",
    "fidelity": "loss",
    "relation_vocab": LABELS,
    "abstraction_heads": (1, 2),
    "abstraction_vocab": 3,
    "sparsity": "entropy",
}


@functools.cache
def make(**changes):
    config = jaxmodels.make_config("prernk", **dict(SMALL, **changes))
    return quick_jit(lambda: jaxmodels.create(config, seed=0))()


@functools.cache
def batch():
    """Every kind of label, each partly absent."""
    rng = np.random.default_rng(0)
    made = {
        "inputs": rng.integers(0, VOCAB, (BATCH, TIME), np.int32),
        "targets": rng.integers(0, VOCAB, (BATCH, TIME), np.int32),
        "weights": (rng.random((BATCH, TIME)) < 0.7).astype(np.float32),
        "reset": rng.random((BATCH, TIME)) < 0.1,
        "values": rng.standard_normal((BATCH, TIME, 1), np.float32),
        "relation_labels": rng.integers(-1, LABELS, (BATCH, TIME, 4, 2), np.int32),
        "step_targets": rng.integers(-1, 3, (BATCH, TIME), np.int32),
    }
    return made


def sums(model, data=None, state=None):
    def run(model, state, data):
        return model.loss_sums(state, data)[1], target_counts(model, data)

    state = model.initial_state(BATCH) if state is None else state
    return jax.device_get(quick_jit(run)(model, state, data or batch()))


def gradients(model, weights, data=None):
    """{parameter: gradient} of the weighted sum of the terms' means."""

    def loss(model, data):
        terms, counts = (
            model.loss_sums(model.initial_state(BATCH), data)[1],
            target_counts(model, data),
        )
        return sum(w * terms[name] / jnp.maximum(counts[name], 1.0) for name, w in weights.items())

    gradient = quick_jit(jax.grad(loss))(model, data or batch())
    return dict(zip(names(gradient), jax.device_get(jax.tree.leaves(gradient)), strict=True))


@functools.cache
def compiled_call():
    """Compile one function for the tests of the contract."""
    model = make()
    return quick_jit(lambda state, tokens, reset: model(state, tokens, reset))


def test_contract():
    """Shapes and dtypes; stepping, two halves and a reset give the logits of the call."""
    model, tokens = make(), batch()["inputs"]
    start = model.initial_state(BATCH)
    reset = np.zeros((BATCH, TIME), bool)
    last, out = compiled_call()(start, tokens, reset)
    assert out.logits.shape == (BATCH, TIME, VOCAB) and out.logits.dtype == jnp.float32
    assert out.values is None and out.relations is None
    assert [a.shape for a in out.abstractions] == [(BATCH, TIME, n) for n in (16, 8, 4)]
    assert out.causal_mask.shape == (BATCH, TIME, 4, 4)

    step, state, logits = quick_jit(model.step), start, []
    for t in range(TIME):
        state, seen = step(state, tokens[:, t])
        logits.append(seen.logits)
    np.testing.assert_allclose(np.stack(logits, 1), out.logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.relations, last.relations, rtol=1e-4, atol=1e-5)

    half, first = compiled_call()(start, tokens[:, :6], reset[:, :6])
    _, second = compiled_call()(half, tokens[:, 6:], reset[:, 6:])
    both = np.concatenate([first.logits, second.logits], 1)
    np.testing.assert_allclose(both, out.logits, rtol=1e-4, atol=1e-5)
    _, fresh = compiled_call()(start, tokens[:, 6:], reset[:, 6:])
    reset[:, 6] = True
    _, cut = compiled_call()(start, tokens, reset)
    np.testing.assert_allclose(cut.logits[:, 6:], fresh.logits, rtol=1e-4, atol=1e-5)
    assert np.abs(cut.logits - out.logits)[:, 6:].max() > 0.01


def test_z03_causality():
    """Bit for bit, at every position."""
    tokens, reset = batch()["inputs"], batch()["reset"]
    start = make().initial_state(BATCH)
    _, out = compiled_call()(start, tokens, reset)
    for i in range(1, TIME):
        changed = tokens.copy()
        changed[:, i:] = (changed[:, i:] + 1) % VOCAB
        _, other = compiled_call()(start, changed, reset)
        same = np.asarray(out.logits == other.logits).all((0, 2))
        assert same[:i].all() and not same[i]


def test_presets_and_names():
    """Z-08: the source's number of parameters; mistakes name the nearest."""
    model = jax.eval_shape(lambda: jaxmodels.create("prernk/as_written"))
    assert jaxmodels.count_parameters(model) == 3_833_122
    for call, message in (
        (lambda: jaxmodels.create("prernl"), "unknown model 'prernl'; did you mean 'prernk'?"),
        (lambda: jaxmodels.create("prernk/as_writen"), "did you mean 'as_written'?"),
        (lambda: jaxmodels.create("prernk", hiden_size=3), "did you mean 'hidden_size'?"),
    ):
        with pytest.raises(UserError) as error:
            call()
        assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": "next"}, "objective must be one of next_token, regression; got 'next'"),
        ({"symbolic": "contrastive"}, "relation_vocab"),
        ({"fidelity": "probe"}, "relation_vocab"),
        ({"abstraction_heads": (3,), "abstraction_vocab": 4}, "levels 0..2"),
        ({"abstraction_heads": (1,)}, "abstraction_vocab"),
        ({"vocab_size": 1}, "vocab_size"),
        ({"relations_every": 0}, "relations_every"),
        ({"ramp_start": 1.0}, "ramp_start"),
        ({"ramp": "late"}, "ramp must be one of"),
        ({"gating": "off"}, "gating must be one of"),
        ({"abstraction_sizes": (8, 4)}, "hidden_size=16"),
    ],
    ids=str,
)
def test_config_errors_name_the_field(changes, message):
    with pytest.raises(UserError) as error:
        jaxmodels.make_config("prernk", **dict(SMALL, **changes))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_config_json_round_trip():
    """Z-02, P-30: text to an equal config, and one config builds the other."""
    for config in (
        jaxmodels.make_config("prernk"),
        jaxmodels.make_config("prernk/as_written"),
        jaxmodels.make_config("prernk", **dict(SMALL, **EVERYTHING)),
    ):
        assert jaxmodels.config_from_json(jaxmodels.config_to_json(config)) == config
        cell = UnifiedCell(config, rngs=nnx.Rngs(0)).config
        for field in dataclasses.fields(UnifiedConfig):
            assert getattr(cell, field.name) == getattr(config, field.name)


def test_loss_keys_match_terms():
    """Sums, counts and masks agree; a weight is a term's; labels may be absent."""
    options = itertools.product(
        ("next_token", "regression"),
        ("none", "cross_entropy", "contrastive", "bounds"),
        ("none", "probe", "loss"),
        ("none", "l1"),
        ((), (0, 2)),
    )
    fields = ("objective", "symbolic", "fidelity", "sparsity", "abstraction_heads")
    unlabelled = {k: v for k, v in batch().items() if k not in ("relation_labels", "step_targets")}
    for values in list(options)[::5]:
        changes = dict(zip(fields, values, strict=True))
        config = jaxmodels.make_config(
            "prernk", **SMALL, **changes, relation_vocab=LABELS, abstraction_vocab=3
        )
        model = jax.eval_shape(lambda c=config: jaxmodels.create(c))
        state = jax.eval_shape(lambda m=model: m.initial_state(BATCH))
        for data in (batch(), unlabelled):
            counts = jax.eval_shape(target_counts, model, data)
            found = jax.eval_shape(lambda m, s, d: m.loss_sums(s, d)[1], model, state, data)
            assert set(counts) == set(found)
            assert all(x.shape == () and x.dtype == jnp.float32 for x in found.values())
            assert all(x.shape == () and x.dtype == jnp.float32 for x in counts.values())
        weights = loss_weights(model, 0.5)
        assert set(weights) <= set(counts) and values[0] in weights


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def picked(log_p, labels):
    return -np.take_along_axis(log_p, np.maximum(labels, 0)[..., None], -1)[..., 0]


@pytest.mark.parametrize(
    "changes",
    [
        EVERYTHING,
        dict(EVERYTHING, objective="regression", symbolic="contrastive", sparsity="l1"),
    ],
    ids=["cross-entropy, entropy", "regression, contrastive, l1"],
)
def test_p11_to_p15_every_loss_by_its_definition(changes):
    """Recompute all five losses and both criteria from the outputs in NumPy."""
    model, data = make(**changes), batch()
    found, counts = sums(model)
    run = quick_jit(
        lambda model: model(model.initial_state(BATCH), data["inputs"], data["reset"])[1]
    )
    out = jax.tree.map(lambda x: np.asarray(x, np.float64), run(model))
    weights = data["weights"].astype(np.float64)
    want, number = {}, {}

    if model.config.objective == "next_token":
        want["next_token"] = (picked(log_softmax(out.logits), data["targets"]) * weights).sum()
        want["accuracy"] = ((out.logits.argmax(-1) == data["targets"]) * weights).sum()
        number["next_token"] = number["accuracy"] = weights.sum()
    else:
        error = (out.values - data["values"]) ** 2
        want["regression"] = (error[..., 0] * weights).sum()
        number["regression"] = weights.sum()
    if model.config.sparsity == "l1":
        penalty = [np.abs(a).mean(-1) for a in out.abstractions]
    else:
        log_p = [log_softmax(np.abs(a)) for a in out.abstractions]
        penalty = [-(np.exp(p) * p).sum(-1) for p in log_p]
    want["sparsity"], number["sparsity"] = (sum(penalty) * weights).sum(), weights.sum()
    for level, a in enumerate(out.abstractions):
        want[f"abstraction_norm_{level}"] = (np.linalg.norm(a, axis=-1) * weights).sum()

    labels = data["relation_labels"][:, EVERY - 1 :: EVERY]
    known = labels >= 0
    assert out.relations.shape == (BATCH, TIME // EVERY, 4, 2, 8)
    if model.config.symbolic == "cross_entropy":
        logits = out.relations @ np.asarray(model.symbols.kernel[...], np.float64)
        logits = logits + np.asarray(model.symbols.bias[...])
    else:
        table = np.asarray(model.symbols.table[...], np.float64)
        unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (out.relations, table)]
        logits = unit[0] @ unit[1].T / 0.1
    want["symbolic"] = (picked(log_softmax(logits), labels) * known).sum()
    want["symbolic_accuracy"] = ((logits.argmax(-1) == labels) * known).sum()
    decoded = np.stack(
        [
            out.relations[..., k, :] @ np.asarray(d.kernel[...]) + np.asarray(d.bias[...])
            for k, d in enumerate(model.decoders)
        ],
        -2,
    )
    want["fidelity"] = (picked(log_softmax(decoded), labels) * known).sum()
    right = decoded.argmax(-1) == labels
    want["fidelity_accuracy"] = (right & known).sum()
    want["fidelity_exact"] = ((right | ~known).all(-1) & known.any(-1)).sum()
    for name in ("symbolic", "symbolic_accuracy", "fidelity", "fidelity_accuracy"):
        number[name] = known.sum()
    number["fidelity_exact"] = known.any(-1).sum()

    steps = data["step_targets"]
    for head, level in zip(model.heads, (1, 2), strict=True):
        logits = out.abstractions[level] @ np.asarray(head.kernel[...]) + np.asarray(head.bias[...])
        want[f"head_{level}"] = (picked(log_softmax(logits), steps) * (steps >= 0)).sum()
        number[f"head_{level}"] = number[f"head_{level}_accuracy"] = (steps >= 0).sum()

    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    for name, value in number.items():
        assert counts[name] == value, name


def test_p12_bounds_by_their_definition():
    """Loss of truth bounds, their contradictions in Lukasiewicz logic, and the prediction."""
    model, data = nnx.clone(make(symbolic="bounds", relation_vocab=LABELS)), batch()
    # Bounds that cross, classes that exclude each other, and slots where none may hold.
    model.symbols.kernel[...] *= 6.0
    model.symbols.bias[...] = jnp.tile(jnp.array([0.0, -5.0]), LABELS)
    found, counts = sums(model)
    run = quick_jit(lambda model: model(model.initial_state(BATCH), data["inputs"], data["reset"]))
    relations = np.asarray(run(model)[1].relations, np.float64)
    kernel = np.asarray(model.symbols.kernel[...], np.float64)
    logits = (relations @ kernel + np.asarray(model.symbols.bias[...])).reshape(-1, LABELS, 2)
    logits = np.moveaxis(logits.reshape(*relations.shape[:-1], LABELS, 2), -1, 0)
    lower, upper = 1 / (1 + np.exp(2 - logits[0])), 1 / (1 + np.exp(-2 - logits[1]))
    labels = data["relation_labels"][:, EVERY - 1 :: EVERY]
    want = dict.fromkeys(("symbolic", "symbolic_accuracy", "symbolic_contradiction"), 0.0)
    parts = set()
    for place in zip(*np.nonzero(labels >= 0), strict=True):
        low, high, label = lower[place], upper[place], labels[place]
        pairs = [low[i] + low[j] - 1 for i in range(LABELS) for j in range(i)]
        terms = {"crossed": np.maximum(low - high, 0).mean(), "both": max(0, *pairs)}
        terms["none"] = max(0, 1 - high.sum())
        contradiction = sum(terms.values())
        others = [np.log(1 - high[i]) for i in range(LABELS) if i != label]
        want["symbolic"] += contradiction - np.log(low[label]) - np.mean(others)
        want["symbolic_contradiction"] += contradiction
        want["symbolic_accuracy"] += (low + high).argmax() == label
        parts = parts | {name for name, part in terms.items() if part > 0.01}
    assert parts == {"crossed", "both", "none"}
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-4, err_msg=name)
        assert counts[name] == (labels >= 0).sum()


def test_absent_labels_have_zero_sums_and_counts():
    """P-12: without labels, and with labels of -1 only, a term is 0 of 0 and moves nothing."""
    model = make(**EVERYTHING)
    none = {k: v for k, v in batch().items() if k not in ("relation_labels", "step_targets")}
    masked = dict(none, relation_labels=np.full_like(batch()["relation_labels"], -1))
    masked["step_targets"] = np.full_like(batch()["step_targets"], -1)
    labelled = ["symbolic", "fidelity", "fidelity_exact", "head_1", "head_2_accuracy"]
    for data in (none, masked):
        found, counts = sums(model, data)
        assert all(found[name] == counts[name] == 0.0 for name in labelled)
        assert found["next_token"] > 0
    moved = gradients(model, {"symbolic": 1.0, "fidelity": 1.0, "head_1": 1.0}, masked)
    assert not any(g.any() for g in moved.values())


def test_targets_of_weight_zero_are_ignored():
    model = make()
    data = dict(batch(), targets=np.where(batch()["weights"] > 0, batch()["targets"], -1))
    found, want = sums(model, data)[0], sums(model)[0]
    assert found["next_token"] == want["next_token"] and np.isfinite(found["next_token"])
    nothing, counts = sums(model, dict(batch(), weights=np.zeros((BATCH, TIME), np.float32)))
    assert not any(nothing.values()) and not any(counts.values())


@pytest.mark.parametrize("kind", ["linear", "sigmoid"])
@pytest.mark.parametrize("start", [0.0, 0.6])
def test_p25_late_ramps(kind, start):
    progress = jnp.linspace(0.0, 1.0, 101)
    weight = np.asarray(ramp(progress, kind, start))
    assert (weight[progress <= start] == 0).all() and abs(weight[-1] - 1) < 1e-6
    assert (np.diff(weight) >= 0).all() and (np.diff(weight[progress >= start]) > 0).all()
    middle = np.interp((1 + start) / 2, progress, weight)
    assert abs(middle - 0.5) < 1e-3
    quarter = np.interp(start + (1 - start) / 4, progress, weight)
    assert abs(quarter - 0.25) < 0.01 if kind == "linear" else quarter < 0.1


def test_p25_weights_follow_the_ramp():
    model = make(**EVERYTHING, symbolic_weight=0.5, sparsity_weight=0.25, heads_weight=0.125)
    at = {p: {k: float(v) for k, v in loss_weights(model, p).items()} for p in (0.0, 0.8, 1.0)}
    assert at[0.0]["symbolic"] == at[0.0]["sparsity"] == 0.0
    np.testing.assert_allclose([at[0.8]["symbolic"], at[1.0]["symbolic"]], [0.25, 0.5], rtol=1e-5)
    np.testing.assert_allclose([at[0.8]["sparsity"], at[1.0]["sparsity"]], [0.125, 0.25], rtol=1e-5)
    for weights in at.values():
        assert weights["next_token"] == 1.0 and weights["head_1"] == weights["head_2"] == 0.125
        assert abs(weights["fidelity"] - 0.1) < 1e-7
    constant = loss_weights(make(**EVERYTHING, ramp="constant"), 0.0)
    assert abs(float(constant["symbolic"]) - 0.1) < 1e-7


@pytest.mark.parametrize("core", ["ema", "rwkv4"])
def test_z07_every_parameter_has_gradient(core):
    model = make(**EVERYTHING, core=core)
    weights = {k: v for k, v in loss_weights(model, 1.0).items()}
    for name, gradient in gradients(model, weights).items():
        assert np.isfinite(gradient).all() and gradient.any(), name


def layer(moved, level):
    return any(moved[name].any() for name in moved if f"reduce.layers.{level}." in name)


def test_z09_dead_abstractions_as_written():
    """The next-token loss reaches only the first level as written, all levels if repaired."""
    weights = {"next_token": 1.0}
    written = gradients(make(topdown=False, gating="diagonal", double_softmax=True), weights)
    assert layer(written, 0) and not layer(written, 1) and not layer(written, 2)
    assert not written["cell.reduce.layers.0.upper.kernel"].any()
    assert all(gradient.any() for gradient in gradients(make(), weights).values())


@pytest.mark.parametrize("level", [1, 2])
def test_p14_head_gradient_reaches_its_level(level):
    """Without top-down feedback, a head has gradients to its own and lower levels only."""
    model = make(topdown=False, abstraction_heads=(1, 2), abstraction_vocab=3)
    moved = gradients(model, {f"head_{level}": 1.0})
    assert layer(moved, level) and moved[f"heads.{level - 1}.kernel"].any()
    assert not moved[f"heads.{2 - level}.kernel"].any()
    assert layer(moved, 2) == (level == 2)
    assert not moved["head.kernel"].any()


@pytest.mark.parametrize(("fidelity", "reaches"), [("probe", False), ("loss", True)])
def test_p15_probe_gradient_stops_at_relations(fidelity, reaches):
    model = make(fidelity=fidelity, relation_vocab=LABELS)
    moved = gradients(model, {"fidelity": 1.0})
    others = {name for name, g in moved.items() if g.any() and not name.startswith("decoders")}
    assert bool(others) == reaches
    assert moved["decoders.0.kernel"].any() and moved["decoders.1.kernel"].any()


def test_p12_symbolic_loss_gradient_reaches_binding():
    moved = gradients(make(symbolic="contrastive", relation_vocab=LABELS), {"symbolic": 1.0})
    for name in ("cell.bind.bind.kernel", "cell.rwkv.project.kernel", "embed.table"):
        assert moved[name].any(), name
    assert not moved["head.kernel"].any()


def test_trace():
    """The traced arrays equal the model's outputs."""
    model, tokens = make(**EVERYTHING), batch()["inputs"][0]
    seen = quick_jit(lambda model, tokens: model.trace(tokens))(model, tokens)
    assert seen["relations"].shape == (TIME, 4, 2, 8)
    assert seen["causal_mask"].shape == (TIME, 4, 4)
    assert seen["abstraction_norms"].shape == (TIME, 3)
    run = quick_jit(lambda model: model(model.initial_state(1), tokens[None])[1].logits)
    bits = picked(log_softmax(np.asarray(run(model), np.float64))[0, :-1], tokens[1:]) / np.log(2)
    np.testing.assert_allclose(seen["log2_loss"], bits, rtol=1e-4)


def test_debug_mode_traces_the_blocks():
    """P-10: a run with debug_mode shows what each block hands on; the rest is as without."""
    tokens = batch()["inputs"][0]
    run = quick_jit(lambda model, tokens: model.trace(tokens))
    seen, plain = run(make(debug_mode=True), tokens), run(make(), tokens)
    blocks = {name: seen[name].shape for name in seen.keys() - plain.keys()}
    want = {"h_mid": (TIME, 16), "context": (TIME, 8), "mask_logits": (TIME, 4, 4)}
    assert blocks == want and all(np.abs(seen[name]).max() > 0 for name in want)
    for name, values in plain.items():
        np.testing.assert_allclose(seen[name], values, rtol=1e-5, atol=1e-6)
