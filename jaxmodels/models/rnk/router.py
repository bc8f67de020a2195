"""The router of learned chunks."""

import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.layers import Linear, symmetric_uniform
from jaxmodels.models.rnk.config import RNKConfig
from jaxmodels.ops import losses
from jaxmodels.ops.common.silu import silu
from jaxmodels.ops.common.token_shift import last_token
from jaxmodels.ops.short_conv import short_conv_silu, short_conv_step, state_after


class Router(nnx.Module):
    """Boundaries between dissimilar bytes, p = (1 - cos(W_q f_t, W_k f_{t-1})) / 2.

    Source: H-Net (arXiv 2507.07955), which routes the outputs of Mamba-2 layers; here, f is a short
    causal convolution of the embedded bytes. p is 0 for a document's first byte.
    """

    taps = 4

    def __init__(self, config: RNKConfig, *, rngs: nnx.Rngs):
        c = self.config = config
        draw = symmetric_uniform(self.taps**-0.5)
        self.conv_taps = nnx.Param(draw(rngs.params(), (c.width, self.taps)))
        self.conv_bias = nnx.Param(jnp.zeros((c.width,), jnp.float32))
        self.query = Linear(c.width, c.width, bias=False, rngs=rngs)
        self.key = Linear(c.width, c.width, bias=False, rngs=rngs)

    def initial_state(self, batch_size: int):
        """Return zeros (B, 4, d): inputs of the convolution, and the last key."""
        return jnp.zeros((batch_size, self.taps, self.config.width), jnp.float32)

    def step(self, state, x):
        """Read x (B, d) -> (state, p (B,))."""
        past, f = short_conv_step(state[:, :-1], x, self.conv_taps[...], self.conv_bias[...])
        query, key = self._projected(silu(f))
        chance = self._chance(query, state[:, -1])
        return jnp.concatenate([past, key[:, None]], 1), chance

    def __call__(self, state, xs, reset, lengths=None):
        """Read xs (B, T, d), reset bool (B, T) -> (state, p (B, T)).

        lengths: int (B,) or None; the bytes after these are padding and leave the state alone.
        """
        taps = self.conv_taps[...], self.conv_bias[...]
        past, f = short_conv_silu(state[:, :-1], xs, *taps, reset)
        query, key = self._projected(f)
        before = jnp.concatenate([state[:, -1:], key[:, :-1]], 1)
        before = jnp.where(reset[..., None], 0.0, before)
        if lengths is not None:
            past = state_after(state[:, :-1], xs, lengths, reset)
        last = last_token(key, state[:, -1], lengths)
        return jnp.concatenate([past, last[:, None]], 1), self._chance(query, before)

    def _projected(self, f):
        dtype = self.config.dtype
        return self.query(f, dtype), losses.unit(self.key(f, dtype))

    def _chance(self, query, key):
        cosine = jnp.sum(losses.unit(query) * key, -1)
        return jnp.where(jnp.any(key != 0.0, -1), 0.5 * (1.0 - cosine), 0.0)
