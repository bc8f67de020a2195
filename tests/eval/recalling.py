"""A hand-made model that repeats what last followed the same three tokens."""

import jax
import jax.numpy as jnp
from flax import nnx

from tests.eval.tiny_bytes import Out


class Recalling(nnx.Module):
    """Model with a memory of `window` tokens; `deaf` ignores resets."""

    def __init__(self, vocab, window, deaf=False):
        self.vocab, self.window, self.deaf = vocab, window, deaf
        self.sharpness = nnx.Param(jnp.float32(8.0))

    def initial_state(self, batch_size):
        return {"seen": jnp.zeros((batch_size, self.window, self.vocab))}

    def step(self, state, token):
        seen = jnp.concatenate(
            [state["seen"][:, 1:], jax.nn.one_hot(token, self.vocab)[:, None]], 1
        )
        size = self.window
        same = jnp.einsum("bwv,bnv->bwn", seen, seen[:, -3:])  # n indexes the last three tokens
        # Position w matches if tokens w - 2, w - 1, w equal the last three.
        like = same[:, : size - 3, 0] * same[:, 1 : size - 2, 1] * same[:, 2 : size - 1, 2]
        latest = like * (jnp.cumsum(like[:, ::-1], 1)[:, ::-1] == 1.0)
        logits = self.sharpness[...] * jnp.einsum("bw,bwv->bv", latest, seen[:, 3:])
        return {"seen": seen}, Out(logits)

    def __call__(self, state, tokens, reset=None):
        if reset is None:
            reset = jnp.zeros(tokens.shape, bool)
        if self.deaf:
            reset = reset & False

        def body(state, inputs):
            token, fresh = inputs
            seen = jnp.where(fresh[:, None, None], 0.0, state["seen"])
            return self.step({"seen": seen}, token)

        state, out = jax.lax.scan(body, state, (tokens.T, reset.T))
        return state, Out(out.logits.swapaxes(0, 1))
