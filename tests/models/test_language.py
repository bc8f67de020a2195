"""Language models: call and step, resets, causality, depth, rematerialization."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels
from jaxmodels.cells.base import where_reset
from jaxmodels.errors import UserError
from jaxmodels.models.contract import loss_weights, main_term, target_counts
from jaxmodels.ops import losses
from jaxmodels.testing.lab import quick_jit, shaken

NAMES = ("rwkv/4", "rwkv/6", "rwkv/7", "mamba/1", "mamba/2", "transformer")
BATCH, TIME, VOCAB = 2, 19, 31
# Relative to the largest logit; two orders of summation over 19 tokens and two layers.
CLOSE = 1e-4


def small(name, **changes):
    fields = {"vocab_size": VOCAB, "width": 32, "num_layers": 2, **changes}
    if name == "transformer":
        fields.setdefault("window", 8)
    else:
        fields.setdefault("chunk_size", 16)
    return jaxmodels.create(name, **fields)


@pytest.fixture(scope="module", params=NAMES)
def case(request):
    """A model that hides nothing behind zeros, tokens, resets, and what the call makes of them."""
    model = shaken(small(request.param), 0)
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (BATCH, TIME)).astype(np.int32)
    reset = rng.random((BATCH, TIME)) < 0.15
    reset[0, 7] = True
    call = quick_jit(lambda model, *args: model(*args))
    step = quick_jit(lambda model, *args: model.step(*args))
    state, _ = call(model, model.initial_state(BATCH), tokens[:, ::-1], reset)  # a warm state
    return request.param, model, tokens, reset, call, step, state


def near(got, want):
    """Relative to the array's largest entry, and to a thousandth of the largest of all arrays: a
    sum that cancels leaves the rounding of its summands.
    """
    largest = max(float(np.abs(w).max()) for w in jax.tree.leaves(want))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(float(np.abs(w).max()), 1e-3 * largest)
        assert np.abs(np.asarray(g) - np.asarray(w)).max() <= CLOSE * scale


def test_call_equals_steps(case):
    _, model, tokens, reset, call, step, state = case
    last, out = call(model, state, tokens, reset)
    assert out.logits.shape == (BATCH, TIME, VOCAB) and out.logits.dtype == jnp.float32
    initial = model.initial_state(BATCH)
    chex.assert_trees_all_equal_shapes_and_dtypes(initial, last)
    assert all(x.dtype == jnp.float32 and x.shape[0] == BATCH for x in jax.tree.leaves(initial))
    for t in range(TIME):
        state = where_reset(reset[:, t], initial, state)
        state, one = step(model, state, tokens[:, t])
        near(one.logits, out.logits[:, t])
    if case[0] != "transformer":  # a call orders its ring differently only in slots never read
        near(state, last)


def test_segments_equal_one_call(case):
    _, model, tokens, reset, call, _, state = case
    _, whole = call(model, state, tokens, reset)
    half, first = call(model, state, tokens[:, :7], reset[:, :7])
    _, second = call(model, half, tokens[:, 7:], reset[:, 7:])
    near(np.concatenate([first.logits, second.logits], 1), whole.logits)


def test_causality_is_bit_exact(case):
    """Z-03: nothing before token 9 knows what comes from there on."""
    _, model, tokens, reset, call, _, state = case
    _, out = call(model, state, tokens, reset)
    later, other = tokens.copy(), reset.copy()
    later[:, 9:] = (later[:, 9:] + 5) % VOCAB
    other[:, 10:] = ~other[:, 10:]
    _, changed = call(model, state, later, other)
    same = np.asarray(out.logits == changed.logits).all((0, 2))
    assert same[:9].all() and not same[9]


def test_every_parameter_has_gradient_and_remat_keeps_it(case):
    """Z-07, P-23."""
    name, model, tokens, reset, *_ = case
    batch = {"inputs": tokens, "targets": tokens[:, ::-1], "reset": reset}
    batch["weights"] = np.ones(tokens.shape, np.float32)

    def loss(model):
        return model.loss_sums(model.initial_state(BATCH), batch)[1]["next_token"]

    plain = quick_jit(jax.grad(loss))(model)
    for path, gradient in jax.tree_util.tree_leaves_with_path(plain):
        assert np.isfinite(gradient).all(), jax.tree_util.keystr(path)
        assert np.any(gradient), jax.tree_util.keystr(path)
    fields = {"chunk_size": 16} if name != "transformer" else {"window": 8}
    again = small(name, remat=True, **fields)
    again = jax.tree.unflatten(jax.tree.structure(again), jax.tree.leaves(model))
    near(quick_jit(jax.grad(loss))(again), plain)


SLOW = pytest.mark.slow


# 19 tokens: with a rest, exactly, all in one.
@pytest.mark.parametrize("chunk", [6, pytest.param(19, marks=SLOW), pytest.param(32, marks=SLOW)])
def test_remat_chunk_equals_full_sequence(case, chunk):
    """P-23: the same logits, state and gradients with `remat_chunk`."""
    name, model, tokens, reset, call, _, state = case
    fields = {"window": 8} if name == "transformer" else {"chunk_size": 16}
    pieces = small(name, remat_chunk=chunk, **fields)
    pieces = jax.tree.unflatten(jax.tree.structure(pieces), jax.tree.leaves(model))
    want_state, want = call(model, state, tokens, reset)
    got_state, got = call(pieces, state, tokens, reset)
    near(got.logits, want.logits)
    if name != "transformer":  # a ring's order differs in slots never read
        near(got_state, want_state)
    if chunk == 6:
        batch = {"inputs": tokens, "targets": tokens[:, ::-1], "reset": reset}
        batch["weights"] = np.ones(tokens.shape, np.float32)

        def loss(model):
            return model.loss_sums(state, batch)[1]["next_token"]

        gradient = quick_jit(jax.grad(loss))
        near(gradient(pieces), gradient(model))


@pytest.mark.slow
def test_remat_chunk_saves_memory():
    """P-23: 512 tokens, 32 at a time, in a quarter of the scratch memory or less."""

    def scratch(chunk):
        model = small("rwkv/4", remat_chunk=chunk)
        tokens = jnp.zeros((1, 512), jnp.int32)
        batch = {"inputs": tokens, "targets": tokens, "weights": jnp.ones((1, 512))}

        def loss(model):
            return model.loss_sums(model.initial_state(1), batch)[1]["next_token"]

        program = jax.jit(jax.grad(loss)).lower(model).compile()
        return program.memory_analysis().temp_size_in_bytes

    assert scratch(32) <= scratch(0) / 4


@pytest.mark.parametrize("name", NAMES)
def test_program_size_is_independent_of_depth(name):
    def program(layers):
        model = small(name, num_layers=layers)
        tokens = jnp.zeros((1, 17), jnp.int32)
        jaxpr = jax.make_jaxpr(lambda m: m(m.initial_state(1), tokens)[1].logits)(model)
        return sum(1 for _ in _equations(jaxpr.jaxpr))

    assert program(2) == program(5)


def _equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


@pytest.mark.parametrize("name", NAMES)
def test_config_json_round_trip(name):
    model = small(name)
    again = jaxmodels.config_from_json(jaxmodels.config_to_json(model.config))
    assert again == model.config


SLOW_KERNELS = [
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("rwkv/6", "rwkv/7", "mamba/1", "mamba/2", "groundthink")
]


@pytest.mark.parametrize("name", ["rwkv/4", *SLOW_KERNELS])
def test_pallas_kernel_equals_xla(name):
    """Logits, states and gradients are those of XLA's form, the layers' norms included."""
    plain = shaken(small(name), 0)
    kernels = jax.tree.unflatten(
        jax.tree.structure(small(name, kernel="pallas")), jax.tree.leaves(plain)
    )
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, VOCAB, (BATCH, TIME)).astype(np.int32)
    reset = rng.random((BATCH, TIME)) < 0.15

    def loss(model):
        state, out = model(model.initial_state(BATCH), tokens, reset)
        return jnp.sum(jnp.sin(out.logits)), (out.logits, state)

    both = quick_jit(jax.value_and_grad(loss, has_aux=True))
    near(both(kernels), both(plain))


@pytest.mark.slow
def test_learns_a_pattern():
    """A model that copies the token of three steps before learns it within 60 updates."""
    rng = np.random.default_rng(0)
    tokens = np.tile(rng.integers(0, VOCAB, (16, 3)), (1, 8)).astype(np.int32)
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    batch["weights"] = np.ones(batch["inputs"].shape, np.float32)
    model = small("rwkv/7")
    optimizer = optax.adam(1e-2)

    def loss(model):
        sums = model.loss_sums(model.initial_state(16), batch)[1]
        return sums["next_token"] / batch["weights"].sum()

    @jax.jit
    def update(model, moments):
        value, gradient = jax.value_and_grad(loss)(model)
        updates, moments = optimizer.update(gradient, moments, model)
        return optax.apply_updates(model, updates), moments, value

    moments, values = optimizer.init(model), []
    for _ in range(60):
        model, moments, value = update(model, moments)
        values.append(float(value))
    assert values[0] > 3.0 and values[-1] < 0.3 * values[0]


@pytest.mark.parametrize(
    "name, fields, message",
    [
        ("rwkv", {"version": 5}, "version must be 4, 6 or 7, got 5"),
        ("rwkv/4", {"head_size": 8}, "version 4 has no heads"),
        ("rwkv/7", {"width": 30, "head_size": 8}, "head_size=8 must divide width=30"),
        ("rwkv/6", {"ranks": (1, 1, 1, 1)}, "ranks must be 2 positive integers"),
        ("mamba", {"version": 3}, "version must be 1 or 2, got 3"),
        ("mamba/2", {"dt_rank": 4}, "dt_rank belongs to version 1"),
        ("mamba/1", {"groups": 2}, "version 1 has no heads"),
        ("transformer", {"window": 0}, "window must be a positive integer, got 0"),
        ("transformer", {"dtype": "float16"}, "dtype must be one of float32, bfloat16"),
        ("mamba/7", {}, "unknown preset 'mamba/7'"),
        ("stack/rwkv7", {"cell_fields": {"value_residual": True}}, "values of the first layer"),
    ],
)
def test_config_errors_name_the_field(name, fields, message):
    with pytest.raises(UserError, match=message):
        jaxmodels.make_config(name, **fields)


def test_l2_wrap_gradient_is_on_the_largest_logit():
    model = small("rwkv/7", l2_wrap=1e-2)
    batch = {"inputs": np.zeros((1, 4), np.int32), "targets": np.ones((1, 4), np.int32)}
    batch["weights"] = np.ones((1, 4), np.float32)
    _, sums = model.loss_sums(model.initial_state(1), batch)
    _, out = model(model.initial_state(1), batch["inputs"])
    assert np.isclose(sums["l2_wrap"], 0.5 * np.square(out.logits.max(-1)).sum(), rtol=1e-6)
    assert target_counts(model, batch).keys() == sums.keys()
    assert np.isclose(loss_weights(model, jnp.zeros(()))["l2_wrap"], 1e-2)


def test_importance_replaces_the_loss_and_keeps_the_measure():
    """G-17: reachable from every model of stacked layers; validation still ranks by plain nats."""
    model = small("rwkv/7", importance=2.0)
    rng = np.random.default_rng(0)
    batch = {name: rng.integers(0, 9, (2, 4), np.int32) for name in ("inputs", "targets")}
    batch["weights"] = np.ones((2, 4), np.float32)
    _, sums = model.loss_sums(model.initial_state(2), batch)
    _, out = model(model.initial_state(2), batch["inputs"])
    nll = np.asarray(losses.token_nll(out.logits, batch["targets"]), np.float64)
    assert np.isclose(sums["next_token"], nll.sum(), rtol=1e-5)
    assert np.isclose(sums["importance"], ((1 - np.exp(-nll)) ** 2 * nll).sum(), rtol=1e-5)
    weights = loss_weights(model, jnp.zeros(()))
    assert weights["next_token"] == 0.0 and weights["importance"] == 1.0
    assert main_term(model) == "next_token" and target_counts(model, batch).keys() == sums.keys()
    assert "importance" not in loss_weights(small("rwkv/7"), jnp.zeros(()))
