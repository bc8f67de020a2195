"""A small gated RNN that follows the model contract, and configs for it, for tests of the loop.

It is not registered as a model, which proves that the loop depends on no system's name.
"""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.models.contract import term_sums, token_terms, weighted_term
from train.config import complete_config


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    vocab_size: int = 256
    width: int = 8
    activity_weight: float = 0.01
    dropout: float = 0.0
    poison_step: int = (
        0  # from about this fraction of 1000 of the run on, the loss is NaN; 0 = never
    )
    dtype: str = "float32"


@flax.struct.dataclass
class ToyState:
    h: jax.Array  # (batch, width)


@flax.struct.dataclass
class ToyOutput:
    logits: jax.Array  # (batch, time, vocab)
    hs: jax.Array  # (batch, time, width)


class Linear(nnx.Module):
    def __init__(self, width_in, width_out, rngs):
        scale = width_in**-0.5
        self.kernel = nnx.Param(scale * jax.random.normal(rngs.params(), (width_in, width_out)))
        self.bias = nnx.Param(jnp.zeros((width_out,)))

    def __call__(self, x):
        y = x @ self.kernel[...].astype(x.dtype)
        return y + jnp.broadcast_to(self.bias[...].astype(x.dtype), y.shape)


class Toy(nnx.Module):
    def __init__(self, config, rngs):
        self.config = config
        self.embedding = nnx.Param(
            0.5 * jax.random.normal(rngs.params(), (config.vocab_size, config.width))
        )
        self.cell = Linear(2 * config.width, 2 * config.width, rngs)
        self.head = Linear(config.width, config.vocab_size, rngs)

    def initial_state(self, batch_size):
        return ToyState(jnp.zeros((batch_size, self.config.width)))

    def __call__(self, state, tokens, reset=None, key=None):
        reset = jnp.zeros(tokens.shape, bool) if reset is None else reset
        dtype = jnp.dtype(self.config.dtype)

        def one(h, inputs):
            x, fresh = inputs
            h = jnp.where(fresh[:, None], 0.0, h)
            both = jnp.concatenate([x.astype(dtype), h.astype(dtype)], -1)
            gate, candidate = jnp.split(self.cell(both).astype(jnp.float32), 2, -1)
            gate = jax.nn.sigmoid(gate)
            h = gate * h + (1 - gate) * jnp.tanh(candidate)
            return h, h

        xs = jnp.swapaxes(self.embedding[...][tokens], 0, 1), jnp.swapaxes(reset, 0, 1)
        h, hs = jax.lax.scan(one, state.h, xs)
        hs = jnp.swapaxes(hs, 0, 1)
        if key is not None and self.config.dropout:
            hs = jnp.where(jax.random.bernoulli(key, self.config.dropout, hs.shape), 0.0, hs)
        return ToyState(h), ToyOutput(self.head(hs.astype(dtype)).astype(jnp.float32), hs)

    @property
    def terms(self):
        def ramp(progress):
            poisoned = 1000 * progress >= (self.config.poison_step or jnp.inf)
            return jnp.where(poisoned, jnp.nan, progress)

        activity = weighted_term(
            "activity",
            lambda out: jnp.abs(out.hs).mean(-1),
            weight=self.config.activity_weight,
            ramp=ramp,
        )
        return *token_terms(), activity

    def loss_sums(self, state, batch, key=None, progress=None):
        state, out = self(state, batch["inputs"], batch.get("reset"), key)
        return state, term_sums(self.terms, out, batch)


class Bare(Toy):
    """The toy with the array itself for a state, no dataclass around it."""

    def initial_state(self, batch_size):
        return super().initial_state(batch_size).h

    def __call__(self, state, tokens, reset=None, key=None):
        state, out = super().__call__(ToyState(state), tokens, reset, key)
        return state.h, out


class Streaming(Toy):
    """The toy with the trait `step`."""

    def step(self, state, token):
        state, out = self(state, token[:, None])
        return state, jax.tree.map(lambda x: x[:, 0], out)


def create_streaming(*, seed=0, dtype="float32", **fields):
    return Streaming(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


def create_bare(*, seed=0, dtype="float32", **fields):
    return Bare(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


def create(*, seed=0, dtype="float32", **fields):
    return Toy(ToyConfig(dtype=dtype, **fields), nnx.Rngs(seed))


def toy_config(**changes):
    """A complete config of the toy; changes by dotted name with "__" for the dot."""
    config = complete_config(
        {
            "model": "tests.train.toy:create",
            "model_config": {
                k: v for k, v in dataclasses.asdict(ToyConfig()).items() if k != "dtype"
            },
            "steps": 20,
            "batch_size": 8,
            "seq_len": 16,
            "eval_every": 10,
            "checkpoint_every": 10,
            "log_every": 5,
            "optimizer": {"learning_rate": 1e-2, "weight_decay": 0.1, "warmup_steps": 2},
            "data": {"eval_tokens": 512},
        }
    )
    for name, value in changes.items():
        *groups, last = name.split("__")
        node = config
        for group in groups:
            node = node[group]
        node[last] = value
    return config


def to_host(placement, state):
    """Return a state in global form as NumPy arrays."""
    return jax.tree.map(placement.fetch, placement.global_form(state))
