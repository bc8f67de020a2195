"""A recurrent byte model that compiles fast."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, struct

from jaxmodels.models.contract import term_sums, token_terms, weighted_term


@struct.dataclass
class Out:
    logits: jax.Array


class Toy(nnx.Module):
    """h' = tanh(kernel h + table[token]); logits = head h'. Implements the model contract."""

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

    @property
    def terms(self):
        constant = weighted_term("abstraction_norm_0", lambda out: jnp.float32(2.0))
        return *token_terms(), constant

    def loss_sums(self, state, batch, key=None, progress=None):
        state, out = self(state, batch["inputs"], batch["reset"])
        return state, term_sums(self.terms, out, batch)

    def trace(self, tokens):
        time = len(tokens)
        mask = np.full((time, 4, 4), 0.25)
        return {
            "relations": np.random.default_rng(0).normal(size=(time, 4, 2, 8)),
            "causal_mask": mask,
            "abstraction_norms": np.ones((time, 3)),
        }
