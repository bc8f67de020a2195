"""Learned initial states: where they apply, and what of a state is one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels
from jaxmodels.cells.base import where_reset
from jaxmodels.errors import UserError
from jaxmodels.models.contract import parameters_of
from jaxmodels.testing.models import check_model, small_config
from jaxmodels.tree import flatten, unflatten
from jaxmodels.tuning import initial, learn_state
from tests.train.toy import create_streaming

ROWS, TIME = 3, 12
SYSTEMS = ("toy", "rwkv/7", "mamba/2", "prernk")


def learned(name):
    """A small model whose parts that start at 0, and whose initial state, are noise."""
    base = create_streaming() if name == "toy" else jaxmodels.create(small_config(name))
    model = learn_state(base)
    rng = np.random.default_rng(0)
    leaves = flatten(model)
    for key, x in leaves.items():
        if key.startswith("initial/") or not np.any(x):
            leaves[key] = jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32)
    return unflatten(model, leaves)


def batch_of(reset):
    tokens = np.random.default_rng(1).integers(1, 17, (ROWS, TIME + 1)).astype(np.int32)
    weights = np.ones((ROWS, TIME), np.float32)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "weights": weights, "reset": reset}


def resets(*places):
    reset = np.zeros((ROWS, TIME), bool)
    for row, time in places:
        reset[row, time] = True
    return reset


@pytest.fixture(scope="module", params=SYSTEMS)
def model(request):
    return learned(request.param)


@pytest.fixture(autouse=True)
def short_pieces(monkeypatch):
    """Several pieces in a row, the last one shorter."""
    monkeypatch.setattr(initial, "PIECE", 5)


def other_state(model):
    tokens = batch_of(resets())["inputs"][:, :7]
    state = jax.jit(lambda m: m.base(m.base.initial_state(ROWS), tokens)[0])(model)
    assert jax.tree.structure(state) == jax.tree.structure(model.initial_state(ROWS))
    return state


def by_definition(model, state, batch):
    """Sums of the loss and the last state, token by token, selecting at each; plain Python."""
    initial, total = model.initial_state(ROWS), None
    one = jax.jit(lambda m, s, b: m.loss_sums(s, b))
    for t in range(TIME):
        state = where_reset(jnp.asarray(batch["reset"][:, t]), initial, state)
        piece = {k: jnp.asarray(v[:, t : t + 1]) for k, v in batch.items() if k != "reset"}
        state, sums = one(model.base, state, piece)
        total = sums if total is None else jax.tree.map(jnp.add, total, sums)
    return state, total


@pytest.mark.parametrize("places", [((1, 0),), ((0, 0), (1, 3), (2, 5)), ((1, 3), (1, 9), (2, 11))])
def test_resets_start_from_the_learned_state(model, places):
    """At the start of rows and within them, values and gradients equal the definition."""
    batch, state = batch_of(resets(*places)), other_state(model)

    def loss(model, function):
        after, sums = function(model, state, batch)
        memory = sum(jnp.sum(jnp.sin(x)) for x in jax.tree.leaves(after))
        return sums["next_token"] + memory, sums

    with jax.default_matmul_precision("highest"):
        fast = jax.jit(jax.value_and_grad(lambda m: loss(m, type(m).loss_sums), has_aux=True))
        (value, sums), grads = fast(model)
        slow = jax.value_and_grad(lambda m: loss(m, by_definition), has_aux=True)
        (want, wanted), expected = slow(model)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    assert sums.keys() == wanted.keys()
    for name, x in parameters_of(expected).items():
        got = flatten(grads)[name]
        assert np.any(x), name
        scale = float(np.abs(x).max())
        # Other orders of summation, float32: 1e-6 of the largest, over 12 tokens.
        np.testing.assert_allclose(got, x, rtol=0, atol=3e-5 * scale, err_msg=name)


def test_a_reset_is_a_fresh_start(model):
    """The rest of a row after a reset is what a row of its own gives: logits, and the state."""
    batch = batch_of(resets((0, 7), (1, 7), (2, 7)))
    call = jax.jit(lambda m, s, x, r: m(s, x, r))
    state, out = call(model, other_state(model), batch["inputs"], batch["reset"])
    alone = batch["inputs"][:, 7:]
    fresh, want = call(model, model.initial_state(ROWS), alone, np.zeros(alone.shape, bool))
    np.testing.assert_allclose(out.logits[:, 7:], want.logits, rtol=0, atol=2e-5)
    for got, x in zip(jax.tree.leaves(state), jax.tree.leaves(fresh), strict=True):
        np.testing.assert_allclose(got, x, rtol=0, atol=2e-5 * max(1.0, float(jnp.abs(x).max())))
    base, _ = call(model.base, model.base.initial_state(ROWS), alone, np.zeros(alone.shape, bool))
    gaps = [
        float(jnp.abs(a - b).max())
        for a, b in zip(jax.tree.leaves(base), jax.tree.leaves(fresh), strict=True)
    ]
    assert max(gaps) > 1e-2  # it is not the base's own initial state


def test_it_starts_as_the_base():
    base = jaxmodels.create(small_config("rwkv/7"))
    model, batch = learn_state(base), batch_of(resets((0, 0)))
    loss = jax.jit(lambda m: m.loss_sums(m.initial_state(ROWS), batch)[1]["next_token"])
    sums = [loss(m) for m in (model, base)]
    assert sums[0] == sums[1]


def test_contract():
    check_model(learned("mamba/2"))


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rwkv/7", ["channel", "time/shift", "time/wkv"]),
        ("mamba/2", ["conv", "ssm"]),
        ("prernk", ["abstractions/0", "abstractions/1", "h", "relations", "time_state"]),
        ("rnk", ["hidden", "mamba/conv", "mamba/ssm"]),
    ],
)
def test_memories_are_learned_and_bookkeeping_is_not(name, parts):
    model = jax.eval_shape(lambda: learn_state(jaxmodels.create(small_config(name))))
    assert sorted(parameters_of(model)) == [f"initial/{part}" for part in parts]


def test_version_4_learns_its_shifts_alone():
    base = jaxmodels.create("rwkv/4", width=32, num_layers=2, vocab_size=17)
    assert sorted(parameters_of(learn_state(base))) == ["initial/channel", "initial/time/shift"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("transformer", "Transformer starts with an empty state, which has nothing to learn"),
        ("hrm", "HRLM does not read token by token"),
        ("hft", "HFT learns without gradients"),
    ],
)
def test_models_without_a_state_to_learn(name, words):
    with pytest.raises(UserError, match=words):
        jax.eval_shape(lambda: learn_state(jaxmodels.create(small_config(name))))


def test_rows_that_are_read_whole():
    """RNK: documents start rows; one within a row is NaN, not another function."""
    model = learned("rnk")
    batch, state = batch_of(resets((0, 0))), other_state(model)
    fresh = where_reset(jnp.asarray(batch["reset"][:, 0]), model.initial_state(ROWS), state)
    plain = {k: v for k, v in batch.items() if k != "reset"}
    sums = jax.jit(lambda m, s, b: m.loss_sums(s, b)[1])
    got, want = sums(model, state, batch), sums(model.base, fresh, plain)
    np.testing.assert_allclose(got["next_token"], want["next_token"], rtol=1e-6)
    within = sums(model, state, batch | {"reset": resets((0, 3))})
    assert np.isnan(within["next_token"])
