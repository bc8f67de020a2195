"""A recurrent byte model small enough that compiling it costs nothing."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct


@struct.dataclass
class Out:
    logits: jax.Array


class Toy(nnx.Module):
    """h' = tanh(kernel h + table[token]); logits = head h'. Keeps the contract of a model."""

    def __init__(self, seed=0, dtype="float32", width=16, vocab=256, sharpness=3.0):
        keys = jax.random.split(jax.random.key(seed), 3)
        self.table = nnx.Param(jax.random.normal(keys[0], (vocab, width)))
        self.kernel = nnx.Param(jax.random.normal(keys[1], (width, width)) / width**0.5)
        self.head = nnx.Param(sharpness * jax.random.normal(keys[2], (width, vocab)) / width**0.5)

    def initial_state(self, batch_size):
        return {"h": jnp.zeros((batch_size, self.kernel[...].shape[0]))}

    def step(self, state, token):
        h = jnp.tanh(state["h"] @ self.kernel[...] + self.table[...][token])
        return {"h": h}, Out(h @ self.head[...])

    def __call__(self, state, tokens, reset=None):
        if reset is None:
            reset = jnp.zeros(tokens.shape, bool)

        def body(state, inputs):
            token, fresh = inputs
            return self.step({"h": jnp.where(fresh[:, None], 0.0, state["h"])}, token)

        state, out = jax.lax.scan(body, state, (tokens.T, reset.T))
        return state, Out(out.logits.swapaxes(0, 1))

    def target_counts(self, batch):
        total = batch["weights"].sum()
        return {"next_token": total, "accuracy": total, "abstraction_norm_0": total}

    def loss_sums(self, state, batch, key=None):
        state, out = self(state, batch["inputs"], batch["reset"])
        log_p = jax.nn.log_softmax(out.logits, -1)
        picked = jnp.take_along_axis(log_p, batch["targets"][..., None], -1)[..., 0]
        hit = jnp.argmax(log_p, -1) == batch["targets"]
        weights = batch["weights"]
        return state, {
            "next_token": -(picked * weights).sum(),
            "accuracy": (hit * weights).sum(),
            "abstraction_norm_0": (2.0 * weights).sum(),
        }

    def loss_weights(self, progress):
        return {"next_token": jnp.ones(())}

    def trace(self, tokens):
        time = len(tokens)
        mask = np.full((time, 4, 4), 0.25)
        return {
            "relations": np.random.default_rng(0).normal(size=(time, 4, 2, 8)),
            "causal_mask": mask,
            "abstraction_norms": np.ones((time, 3)),
        }
