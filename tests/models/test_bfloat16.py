"""Training with bfloat16 matmuls (docs/systems.md P-22, Z-10): the loss stays that of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxmodels
from jaxmodels.models.contract import main_term, target_counts
from jaxmodels.testing.lab import quick_jit

VOCAB, ROWS, STEPS = 32, 8, 200
SMALL = {"width": 16, "num_layers": 2}
MODELS = {
    "prernk": {
        "width": 16, "hidden_size": 24, "abstraction_sizes": (24, 12, 6),
        "symbol_slots": 4, "role_slots": 2, "relation_size": 8,
    },
    "rwkv/4": SMALL,
    "rwkv/6": SMALL | {"head_size": 8},
    "rwkv/7": SMALL | {"head_size": 8},
    "mamba/1": SMALL,
    "mamba/2": SMALL | {"head_size": 8, "state_size": 8},
    "stack/gated_delta": SMALL,
    "stack/gru": SMALL,
    "transformer": SMALL | {"head_size": 8, "window": 16},
    "groundthink": SMALL | {"head_size": 8},
    "rnk": {"width": 16, "hidden_size": 16, "num_layers": 1, "chunk_size": 4},
    "hrlm": {
        "mode": "prefix_ar", "causal": True, "registers": 0, "halt_max_steps": 1, "seq_len": 19,
        "width": 16, "head_size": 8, "mlp_multiple": 8, "high_layers": 1, "low_layers": 1,
    },
}  # fmt: skip
# Nats. While the loss falls the two may be a few steps apart, afterwards the loss is compared.
# Measured: 0.1 and 0.004 for PRERNK, 0.09 and 0.0003 for gated delta, 0.014 and 0.001 at most else.
FALLING, SETTLED = 0.05, 0.005
BOUNDS = {"prernk": (0.25, 0.02), "stack/gated_delta": (0.25, 0.005)}


def training_curve(name, dtype):
    """Mean loss of each step on a small language: words of four letters, some of them frequent."""
    model = jaxmodels.create(name, seed=0, vocab_size=VOCAB, dtype=dtype, **MODELS[name])
    rng = np.random.default_rng(5)
    words = rng.integers(0, VOCAB, (6, 4), np.int32)
    text = words[rng.choice(6, (STEPS, ROWS, 5), p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1])]
    text = text.reshape(STEPS, ROWS, 20)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(5e-3))

    def loss(model, text):
        data = {"inputs": text[:, :-1], "targets": text[:, 1:]}
        data["weights"] = jnp.ones(data["inputs"].shape)
        key = jax.random.key(0) if name == "hrlm" else None  # without one, it evaluates
        _, terms = model.loss_sums(model.initial_state(ROWS), data, key)
        main = main_term(model)
        return terms[main] / target_counts(model, data)[main]

    def step(carry, text):
        model, moments = carry
        value, gradient = jax.value_and_grad(loss)(model, text)
        updates, moments = optimizer.update(gradient, moments, model)
        return (optax.apply_updates(model, updates), moments), value

    (model, _), curve = quick_jit(lambda *args: jax.lax.scan(step, *args))(
        (model, optimizer.init(model)), text
    )
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    return np.asarray(curve)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_z10_bfloat16_learns_like_float32(name):
    """Means of 20 steps, over 200: within the first bound throughout, the second in the last 60."""
    full, half = (training_curve(name, dtype) for dtype in ("float32", "bfloat16"))
    windows = [curve.reshape(-1, 20).mean(1) for curve in (full, half)]
    drift = np.abs(windows[0] - windows[1])
    print(f"{name}: float32 {windows[0]}\nbfloat16 {windows[1]}\ndrift {drift} nats")
    assert windows[0][-1] < 0.3 * windows[0][0]
    assert (full != half).any()
    falling, settled = BOUNDS.get(name, (FALLING, SETTLED))
    assert drift.max() < falling
    assert drift[-3:].max() < settled
