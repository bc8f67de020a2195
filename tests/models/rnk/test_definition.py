"""RNK's equations, written once more in float64 NumPy."""

import jax
import numpy as np
import pytest

from jaxmodels.data.chat.exchange import BYTES, prompt_ids
from jaxmodels.models.rnk.chunking import mean_of, open_chunk, read_byte
from jaxmodels.models.rnk.config import INTENTS
from jaxmodels.models.rnk.model import Known
from jaxmodels.testing.lab import quick_jit
from jaxmodels.tree import flatten
from tests.models.rnk.small import small_config, small_model

BATCH, CHUNKS, WIDTH = 3, 4, 16


def parameters(model):
    return {n: np.asarray(x, np.float64) for n, x in flatten(model).items()}


def linear(p, name, x):
    return x @ p[f"{name}/kernel"] + p[f"{name}/bias"]


def layer_norm(p, name, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    return x * p[f"{name}/scale"] + p[f"{name}/bias"]


def gelu(x):
    """The tanh form, which jax.nn.gelu takes."""
    return 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3)))


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def mlp(p, name, x):
    return linear(p, f"{name}/down", gelu(linear(p, f"{name}/up", x)))


def net(p, name, x, layers):
    for i in range(layers):
        x = x + mlp(p, f"{name}/mlps/{i}", layer_norm(p, f"{name}/norms/{i}", x))
    return x


def planned(p, c, x):
    """x (..., d) -> plan, of each kind of planner."""
    if c.planner == "none":
        return x
    if c.planner == "rnk":
        plan = x
        for _ in range(c.plan_steps):
            inner = layer_norm(p, "planner/norm", net(p, "planner/net", plan, c.plan_layers))
            plan = linear(p, "planner/output", inner) + 0.1 * x
        return plan
    slow_net = "planner/slow" if c.planner == "hrm" else "planner/net"
    slow, fast = x, 0.0 * x
    for _ in range(2):
        for _ in range(2):
            mixed = layer_norm(p, "planner/norm", fast + slow + x)
            fast = net(p, "planner/net", mixed, c.plan_layers)
        slow = net(p, slow_net, layer_norm(p, "planner/norm", slow + fast), c.plan_layers)
    return linear(p, "planner/output", layer_norm(p, "planner/norm", slow))


def refined(p, plan, heads=4):
    """plan (B, n, d) -> (refined, gate)."""
    memory = p["refiner/constraints"]
    parts = [
        linear(p, f"refiner/attention/{name}", x)
        for name, x in (("query", plan), ("key", memory), ("value", memory))
    ]
    q, k, v = (x.reshape(*x.shape[:-1], heads, -1) for x in parts)
    scores = np.einsum("bnhd,mhd->bhnm", q, k) / np.sqrt(q.shape[-1])
    read = np.einsum("bhnm,mhd->bnhd", softmax(scores), v).reshape(plan.shape)
    read = linear(p, "refiner/attention/output", read)
    ref = mlp(p, "refiner/mlp", layer_norm(p, "refiner/norm", plan + read))
    gate = sigmoid(linear(p, "refiner/gate", np.concatenate([plan, ref], -1)))
    return layer_norm(p, "refiner/norm_out", gate * ref + (1.0 - gate) * plan), gate


@pytest.mark.parametrize("planner", ["rnk", "hrm", "trm", "none"])
def test_planner_and_refiner(planner):
    model = small_model(planner=planner, plan_layers=2, plan_steps=3)
    x = np.random.default_rng(0).normal(size=(BATCH, CHUNKS, WIDTH)).astype(np.float32)
    p = parameters(model)
    plan = quick_jit(lambda model, x: model.planner(x))(model, x)
    want = planned(p, model.config, x.astype(np.float64))
    np.testing.assert_allclose(plan, want, atol=2e-5 * np.abs(want).max())
    got = quick_jit(lambda model, x: model.refiner(x))(model, x)
    for a, b in zip(got, refined(p, x.astype(np.float64)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_intent_conditions_the_plan_after_a_prompt():
    """p = planner(m + v), r = refiner(p) + v; v = s E^T softmax(W context), s = 1 to 3 for math."""
    model = small_model()
    p, rng = parameters(model), np.random.default_rng(1)
    m, context = rng.normal(size=(2, BATCH, CHUNKS, WIDTH)).astype(np.float32)
    prompted = np.array([[0, 0, 1, 1]] * BATCH, np.float32)
    plan, _ = quick_jit(lambda model, *x: model._plan(Known(*x)))(model, m, context, prompted)
    shares = softmax(linear(p, "intent", context.astype(np.float64)))
    scale = 1.0 + 2.0 * shares[..., INTENTS.index("math")]
    vector = scale[..., None] * (shares @ (np.sqrt(WIDTH) * p["intents/table"]))
    vector = prompted[..., None] * vector
    want = refined(p, planned(p, model.config, m + vector))[0] + vector
    np.testing.assert_allclose(plan, want, atol=2e-5 * np.abs(want).max())


def test_the_source_attends_to_every_byte_of_the_prompt():
    """softmax(q K) V over the prompt's bytes one by one, though each value is read but once."""
    model = small_model(decoder_context="attention")
    p, rng, heads = parameters(model), np.random.default_rng(5), 4
    prompts = [[97, 98, 97, 97, 32], [], [98]]
    plan = rng.normal(size=(len(prompts), WIDTH)).astype(np.float32)
    counts = np.zeros((len(prompts), 256), np.float32)
    for row, prompt in enumerate(prompts):
        np.add.at(counts[row], prompt, 1.0)
    table = np.sqrt(WIDTH) * p["embed/table"]
    got = quick_jit(lambda model, *x: model.decoder.attend(*x))(
        model, plan, table.astype(np.float32), counts
    )
    for row, prompt in enumerate(prompts):
        memory = linear(p, "decoder/memory", table[prompt])
        q = linear(p, "decoder/attention/query", linear(p, "decoder/query", plan[row : row + 1]))
        k, v = (linear(p, f"decoder/attention/{name}", memory) for name in ("key", "value"))
        q, k, v = (x.reshape(len(x), heads, WIDTH // heads) for x in (q, k, v))
        read = np.zeros((heads, WIDTH // heads))
        if prompt:
            weights = softmax(np.einsum("hd,mhd->hm", q[0], k) / np.sqrt(WIDTH // heads))
            read = np.einsum("hm,mhd->hd", weights, v)
        want = linear(p, "decoder/attention/output", read.reshape(-1))
        np.testing.assert_allclose(got[row], want, atol=2e-5)


def test_a_chunk_is_the_mean_of_its_bytes_in_order():
    config = small_config(width=8, chunk_size=4)
    rng = np.random.default_rng(2)
    features = rng.normal(size=(4, 1, 8)).astype(np.float32)
    tokens = [ord("a"), config.pad, ord("b"), ord("c")]
    chunk = open_chunk(1, 8)
    for token, x in zip(tokens, features, strict=True):
        chunk, ends = read_byte(config, chunk, np.array([token], np.int32), x, None)
    rates = np.exp(-np.log(1e4) * np.arange(4) / 4)
    phases = [1 + np.concatenate([np.sin(i * rates), np.cos(i * rates)]) for i in range(4)]
    want = sum(features[i, 0] * phases[i] for i in (0, 2, 3)) / 3  # padding has a place, no byte
    np.testing.assert_allclose(mean_of(chunk)[0], want, atol=1e-6)
    assert ends.closes[0] and ends.emits[0] and not ends.prompt[0]


def test_a_chunk_of_padding_is_none():
    model = small_model()
    tokens = np.full((1, 8), model.config.pad, np.int32)
    state, out = quick_jit(lambda model, *x: model(*x))(model, model.initial_state(1), tokens)
    assert out.ends.closes[0].tolist() == [False, False, False, True] * 2
    assert not out.ends.emits.any() and not np.any(state.planned)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.mamba))


def test_a_prompt_ends_once_within_its_gap():
    model = small_model()
    gap, begin = model.config.prompt_gap, model.config.begin
    row = [*prompt_ids(["hi"], 4, 64, BYTES)[2]]
    tokens = np.full((1, len(row) + gap + 4), ord("x"), np.int32)
    tokens[0, : len(row)] = row
    tokens[0, [len(row) + 5, len(row) + gap]] = begin  # too early; the first that counts
    _, out = quick_jit(lambda model, *x: model(*x))(model, model.initial_state(1), tokens)
    assert np.flatnonzero(out.ends.prompt[0]).tolist() == [len(row) - 1, len(row) + gap]


@pytest.mark.parametrize("smoothing", [0.0, 0.8])
def test_plans_are_smoothed_along_a_document(smoothing):
    """s_t = c p_t + (1 - c) s_{t-1}, with c = (1 - smoothing) max(chance, 0.5); c = 1 at first."""
    model = small_model(chunking="learned", min_chunk=1, plan_smoothing=smoothing)
    rng = np.random.default_rng(3)
    plans = rng.normal(size=(1, CHUNKS, WIDTH)).astype(np.float32)
    chance = np.array([[0.9, 0.2, 0.7, 0.6]], np.float32)
    first = np.array([[False, False, True, False]])
    state = model.initial_state(1).replace(
        plan=rng.normal(size=(1, WIDTH)).astype(np.float32), planned=np.ones(1, np.float32)
    )
    got = quick_jit(lambda model, *x: model._smoothed(*x))(model, state, plans, first, chance)
    last, want = state.plan[0], []
    for t in range(CHUNKS):
        share = 1.0 if first[0, t] else (1.0 - smoothing) * max(chance[0, t], 0.5)
        last = share * plans[0, t] + (1.0 - share) * last
        want.append(last)
    np.testing.assert_allclose(got[0], want, atol=1e-6)


def test_learned_boundaries_are_dissimilar_neighbours():
    """chance = (1 - cos(W_q f_t, W_k f_{t-1})) / 2, 0 for the first byte of a document."""
    model = small_model(chunking="learned", min_chunk=1)
    p, rng = parameters(model), np.random.default_rng(4)
    x = rng.normal(size=(1, 6, WIDTH)).astype(np.float32)
    reset = np.array([[False, False, False, True, False, False]])
    router = model.router
    _, got = quick_jit(lambda r, *x: r(*x))(router, router.initial_state(1), x, reset)
    padded = np.zeros((9, WIDTH))
    taps, queries, keys = p["router/conv_taps"], [], []
    for t in range(6):
        if reset[0, t]:
            padded[: t + 3] = 0.0
        padded[t + 3] = x[0, t]
        f = p["router/conv_bias"] + (taps.T * padded[t : t + 4]).sum(0)
        f = f * sigmoid(f)
        queries.append(f @ p["router/query/kernel"])
        keys.append(f @ p["router/key/kernel"])
    for t in range(6):
        want = 0.0
        if t and not reset[0, t]:
            q, k = queries[t], keys[t - 1]
            want = 0.5 * (1.0 - q @ k / np.linalg.norm(q) / np.linalg.norm(k))
        assert got[0, t] == pytest.approx(want, abs=1e-5)
