"""Base class of left-to-right language models: embedding, stacked layers, norm, head and loss.

A layer is a `Cell` on the residual stream: x (batch, width) -> y (batch, width). The layers are one
module whose arrays have a leading axis `num_layers`, and `jax.lax.scan` runs over it, so program
size does not grow with depth. State leaves are (batch, num_layers, ...).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.arguments import checked_batch, checked_tokens
from jaxmodels.cells.base import not_negative, one_of, positive
from jaxmodels.cells.layers import Embedding, Linear
from jaxmodels.models.contract import Term, term_sums, token_terms
from jaxmodels.ops import losses
from jaxmodels.ops.common.chunks import remat_over_time
from jaxmodels.ops.common.precision import precision_of
from jaxmodels.ragged import hold_after


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """Fields of every language model's configuration.

    Attributes:
      importance: exponent of (1 - p) in the importance of a target for the loss; 0 = all count
        alike (`ops/losses.py`).
      l2_wrap: weight of a penalty on the largest logit, 1e-4 in BlinkDL's reference; 0 = off.
      remat: keep only each layer's input for the backward pass.
      remat_chunk: if positive, process that many tokens at a time and keep only boundary states.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and states are float32.
    """

    vocab_size: int = 256
    width: int = 256
    num_layers: int = 6
    importance: float = 0.0
    l2_wrap: float = 0.0
    remat: bool = False
    remat_chunk: int = 0
    dtype: str = "float32"

    def __post_init__(self):
        positive(self, "vocab_size", "width", "num_layers")
        one_of(self, "dtype", ("float32", "bfloat16"))
        not_negative(self, "importance", "l2_wrap", "remat_chunk")


@struct.dataclass
class LanguageOutput:
    """Logits, float32 (batch, time, vocab), in `step` (batch, vocab)."""

    logits: jax.Array


def stack(layers: list) -> nnx.Module:
    """Stack modules of one kind into one whose arrays have a leading axis over them."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)


def layer_of(layers: nnx.Module, index: int) -> nnx.Module:
    """Return one of the modules joined by `stack`."""
    return jax.tree.map(lambda x: x[index], layers)


class LanguageModel(nnx.Module):
    """Stack of equal layers that implements the model contract (`models/contract.py`).

    A subclass passes its parts to `__init__` and may override `embed_tokens` and `extras`.
    """

    def __init__(self, config, *, embed: Embedding, layers, norm, head: Linear | None):
        """Take the parts; `layers` as joined by `stack`, head None for a tied embedding table."""
        self.config = config
        self.embed = embed
        self.layers = layers
        self.norm = norm
        self.head = head

    def initial_state(self, batch_size: int):
        """Return the layers' initial states; leaves (batch, num_layers, ...) float32."""
        state = layer_of(self.layers, 0).initial_state(batch_size)

        def repeat(x):
            return jnp.repeat(x[:, None], self.config.num_layers, 1)

        return jax.tree.map(repeat, state)

    @property
    def replicated_only(self) -> bool:
        """See `Traits`."""
        return getattr(self.config, "kernel", "xla") == "pallas"

    def embed_tokens(self, tokens):
        """Embed int (...) as float32 (..., width)."""
        return self.embed(tokens)

    def extras(self, state, xs, reset=None) -> tuple:
        """Return further arguments of every layer, computed from state and embedded tokens."""
        del state, xs, reset
        return ()

    @checked_tokens
    def __call__(self, state, tokens, reset=None, key=None, lengths=None):
        """Read tokens int (B, T) with reset bool (B, T) or None -> (state, LanguageOutput)."""
        real = None if lengths is None else ~hold_after(lengths, tokens.shape[1])

        def read(state, inputs):
            return self._read(state, *inputs, key)

        state, logits = self._over_time(read, state, (tokens, reset, real))
        return state, LanguageOutput(logits)

    def _read(self, state, tokens, reset, real, key):
        lengths = None if real is None else jnp.sum(real, 1, dtype=jnp.int32)
        state, hidden = self.hidden(state, tokens, reset, key, lengths)
        return state, self._logits(hidden)

    def _over_time(self, read, state, inputs):
        """Apply read(state, inputs (B, T, ...)), `remat_chunk` tokens at a time if configured."""
        chunk = self.config.remat_chunk
        if not chunk:
            return read(state, inputs)
        return remat_over_time(read, state, inputs, chunk, time_axis=1)

    def hidden(self, state, tokens, reset=None, key=None, lengths=None):
        """Return the state and the normalized output of the last layer, (B, T, width)."""
        del key  # no randomness
        xs = self.embed_tokens(tokens)
        extras = self.extras(state, xs, reset)

        def run(layer, state, xs):
            return layer(state, xs, reset, None, *extras, lengths=lengths)

        state, xs = self._through(jax.checkpoint(run) if self.config.remat else run, state, xs)
        return state, self.norm(xs)

    @checked_tokens
    def step(self, state, token):
        """Read one token int (B,) -> (state, LanguageOutput without a time axis)."""
        x = self.embed_tokens(token)
        extras = self.extras(state, x)
        state, x = self._through(
            lambda layer, state, x: layer.step(state, x, None, *extras), state, x
        )
        return state, LanguageOutput(self._logits(self.norm(x)))

    def _through(self, run, state, xs):
        """Scan run(layer, state, xs) -> (state, ys) over the layers."""

        def body(xs, inputs):
            layer, state = inputs
            state, xs = run(layer, state, xs)
            return xs, state

        by_layer = jax.tree.map(lambda x: x.swapaxes(0, 1), state)
        xs, by_layer = jax.lax.scan(body, xs, (self.layers, by_layer))
        return jax.tree.map(lambda x: x.swapaxes(0, 1), by_layer), xs

    def _logits(self, x):
        if self.head is not None:
            return self.head(x, self.config.dtype)
        table = self.embed.table[...].astype(self.config.dtype)
        options = {"precision": precision_of(table.dtype), "preferred_element_type": jnp.float32}
        return jnp.einsum("...d,vd->...v", x.astype(table.dtype), table, **options)

    @property
    def terms(self) -> tuple[Term, ...]:
        """Next-token loss, accuracy, and if configured `importance` and `l2_wrap`."""
        weight = self.config.l2_wrap
        return token_terms(self.config.importance) + (
            (Term("l2_wrap", _l2_wrap, weight=weight),) if weight else ()
        )

    @checked_batch
    def loss_sums(self, state, batch, key=None, progress=None):
        """See `Model.loss_sums`. With `remat_chunk`, the terms are summed chunk by chunk."""
        del progress
        terms = self.terms

        def read(carry, inputs):
            state, before = carry
            tokens, targets, weights, reset = inputs
            state, logits = self._read(state, tokens, reset, None, key)
            read = {"targets": targets, "weights": weights}
            sums = term_sums(terms, LanguageOutput(logits), read)
            return (state, jax.tree.map(jnp.add, before, sums)), None

        zeros = {term.name: jnp.float32(0.0) for term in terms}
        weights = batch["weights"].astype(jnp.float32)
        inputs = (batch["inputs"], batch["targets"], weights, batch.get("reset"))
        return self._over_time(read, (state, zeros), inputs)[0]

    def trace(self, tokens: jax.Array) -> dict[str, jax.Array]:
        """Return {"log2_loss": (T - 1,)}, bits per next token, of tokens int (T,)."""
        tokens = jnp.asarray(tokens)[None]
        _, out = self(self.initial_state(1), tokens)
        return {"log2_loss": losses.token_nll(out.logits[0, :-1], tokens[0, 1:]) / math.log(2.0)}


def _l2_wrap(out, batch):
    """Sum half the squared largest logit, whose gradient is BlinkDL's L2Wrap."""
    return jnp.sum(batch["weights"] * 0.5 * jnp.square(out.logits.max(-1)))
