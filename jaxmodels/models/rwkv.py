"""RWKV-4, -6 and -7 language models.

    x <- x + TimeMix(LN x) ;  x <- x + ChannelMix(LN x)

with a LayerNorm after the embedding and before the head. Source: BlinkDL, RWKV-LM (RWKV-v4neo,
RWKV-v5 with x060, RWKV-v7).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx, struct

from jaxmodels.cells.base import KERNELS, Cell, head_size_of, one_of, positive
from jaxmodels.cells.layers import EVERY_COLUMN, Embedding, LayerNorm, Linear, symmetric_uniform
from jaxmodels.cells.rwkv4 import RWKV4Cell, RWKV4Config
from jaxmodels.cells.rwkv6 import RWKV6Cell, RWKV6Config
from jaxmodels.cells.rwkv7 import RWKV7Cell, RWKV7Config
from jaxmodels.errors import UserError
from jaxmodels.models.language import LanguageConfig, LanguageModel, layer_of, stack
from jaxmodels.ops.common.token_shift import last_token, token_shift

# By version: hidden width of channel mixing over width, and power of (i / C) in its initial mix.
EXPANSION = {4: 4.0, 6: 3.5, 7: 4.0}
MIX_POWER = {4: 1, 6: 3, 7: 4}
# Low-rank maps by version, in the order of `ranks`.
RANKS = {6: ("mix", "decay"), 7: ("decay", "rate", "residual", "gate")}


@dataclasses.dataclass(frozen=True)
class RWKVConfig(LanguageConfig):
    """Configuration of an RWKV language model; see `LanguageConfig` for further fields.

    Attributes:
      version: 4, 6 or 7.
      head_size: for versions 6 and 7; None means 64, or the width if that is smaller.
      channel_size: hidden width of channel mixing; None means 4, 3.5 (rounded down to a multiple of
        32) or 4 times the width, as in the reference.
      ranks: ranks of the low-rank maps, for version 6 (mix, decay), for version 7 (decay, rate,
        residual, gate); None means the reference's.
      chunk_size: tokens per chunk of the chunked scan; None means the cell's default.
      kernel: "xla" or "pallas", see the cells.
    """

    version: int = 7
    head_size: int | None = None
    channel_size: int | None = None
    ranks: tuple[int, ...] | None = None
    chunk_size: int | None = None
    kernel: str = "xla"

    def __post_init__(self):
        super().__post_init__()
        if self.version not in EXPANSION:
            raise UserError(f"version must be 4, 6 or 7, got {self.version!r}")
        one_of(self, "kernel", tuple(KERNELS))
        if self.ranks is not None:
            names = RANKS.get(self.version)
            if names is None:
                raise UserError(f"version {self.version} has no low-rank maps; leave ranks None")
            sizes = tuple(self.ranks) if isinstance(self.ranks, list | tuple) else ()
            if len(sizes) != len(names) or not all(type(n) is int and n > 0 for n in sizes):
                expected = f"{len(names)} positive integers ({', '.join(names)})"
                raise UserError(f"ranks must be {expected}, got {self.ranks!r}")
            object.__setattr__(self, "ranks", sizes)
        if self.version == 4 and self.head_size is not None:
            raise UserError("version 4 has no heads; leave head_size None")
        if self.version != 4:
            object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.channel_size is None:
            size = int(EXPANSION[self.version] * self.width)
            object.__setattr__(self, "channel_size", size // 32 * 32 or size)
        positive(self, "channel_size")
        _ = self.cell  # validates its own fields

    @property
    def cell(self) -> RWKV4Config | RWKV6Config | RWKV7Config:
        """Return the config of the time-mixing cell."""
        fields = {"width": self.width, "dtype": self.dtype, "kernel": self.kernel}
        if self.chunk_size is not None:
            fields["chunk_size"] = self.chunk_size
        if self.version == 6:
            if self.ranks is not None:
                fields |= {"mix_rank": self.ranks[0], "decay_rank": self.ranks[1]}
            return RWKV6Config(**fields, head_size=self.head_size)
        if self.version == 4:
            return RWKV4Config(**fields)
        return RWKV7Config(
            **fields, head_size=self.head_size, ranks=self.ranks, value_residual=True
        )


PRESETS = {"4": {"version": 4}, "6": {"version": 6}, "7": {"version": 7}}
CELL = {4: RWKV4Cell, 6: RWKV6Cell, 7: RWKV7Cell}


class ChannelMix(nnx.Module):
    """Channel mixing: value(relu(key(mixed))^2), in versions 4 and 6 with a receptance gate."""

    def __init__(self, config: RWKVConfig, *, rngs: nnx.Rngs, layer: int = 0):
        c = self.config = config
        width, hidden = c.width, c.channel_size
        rho = 1.0 - layer / c.num_layers
        mix = 1.0 - (jnp.arange(width, dtype=jnp.float32) / width) ** (rho ** MIX_POWER[c.version])
        zeros = nnx.initializers.zeros
        if c.version == 7:
            key_init = symmetric_uniform(0.5 / width**0.5)
        else:
            key_init = nnx.initializers.orthogonal(max(hidden / width, 1.0) ** 0.5)
        self.key_mix = nnx.Param(mix)
        self.key = Linear(width, hidden, bias=False, init=key_init, rngs=rngs)
        self.value = Linear(hidden, width, bias=False, init=zeros, rngs=rngs)
        if c.version != 7:
            self.receptance_mix = nnx.Param(mix)
            options = {"init": zeros, "undecayed": EVERY_COLUMN, "rngs": rngs}
            self.receptance = Linear(width, width, bias=False, **options)

    def __call__(self, x, before):
        """Mix tokens (..., C) with the preceding tokens `before` (..., C) -> (..., C)."""
        dtype = self.config.dtype

        def mixed(mix):
            return x + (before - x) * mix[...].reshape((1,) * (x.ndim - 1) + (-1,))

        hidden = jnp.square(jax.nn.relu(self.key(mixed(self.key_mix), dtype)))
        out = self.value(hidden, dtype)
        if self.config.version == 7:
            return out
        return jax.nn.sigmoid(self.receptance(mixed(self.receptance_mix), dtype)) * out


@struct.dataclass
class RWKVState:
    """State of a layer: that of the cell, and the last token read by channel mixing, (B, C)."""

    time: jax.Array
    channel: jax.Array


class RWKVLayer(Cell):
    """Time and channel mixing on the residual stream; x, y: (B, C).

    In version 7, `v_first` are the values of the model's first layer.
    """

    def __init__(self, config: RWKVConfig, *, rngs: nnx.Rngs, layer: int = 0):
        self.config = config
        self.norm_time = LayerNorm(config.width)
        self.norm_channel = LayerNorm(config.width)
        self.time = CELL[config.version](
            config.cell, rngs=rngs, layer=layer, num_layers=config.num_layers
        )
        self.channel = ChannelMix(config, rngs=rngs, layer=layer)

    def initial_state(self, batch_size: int) -> RWKVState:
        """Return the cell's initial state and a zero token."""
        zeros = jnp.zeros((batch_size, self.config.width), jnp.float32)
        return RWKVState(self.time.initial_state(batch_size), zeros)

    def step(self, state, x, key=None, v_first=None):
        """See `Cell.step`."""
        extras = () if v_first is None else (v_first,)
        time, y = self.time.step(state.time, self.norm_time(x), key, *extras)
        x = x + y
        normed = self.norm_channel(x)
        return RWKVState(time, normed), x + self.channel(normed, state.channel)

    def scan(self, state, xs, reset=None, key=None, v_first=None, *, step=None, hold=None):
        """See `Cell.scan`; v_first (B, T, C) in version 7, else None."""
        step = step or (lambda state, x, key: self.step(state, x[0], key, x[1]))
        return Cell.scan(self, state, (xs, v_first), reset, key, step=step, hold=hold)

    def __call__(self, state, xs, reset=None, key=None, v_first=None, lengths=None):
        """See `Cell.scan`."""
        extras = () if v_first is None else (v_first,)
        implementation = KERNELS[self.config.kernel]
        normed = self.norm_time(xs, implementation)
        time, ys = self.time(state.time, normed, reset, key, *extras, lengths=lengths)
        xs = xs + ys
        normed = self.norm_channel(xs, implementation)
        before = token_shift(normed, state.channel, reset)
        channel = last_token(normed, state.channel, lengths)
        return RWKVState(time, channel), xs + self.channel(normed, before)


class RWKV(LanguageModel):
    """RWKV language model."""

    def __init__(self, config: RWKVConfig, *, rngs: nnx.Rngs):
        c = config
        gain = 0.5 * max(c.vocab_size / c.width, 1.0) ** 0.5
        head_init = nnx.initializers.orthogonal(gain)
        super().__init__(
            c,
            embed=Embedding(c.vocab_size, c.width, init=symmetric_uniform(1e-4), rngs=rngs),
            layers=stack([RWKVLayer(c, rngs=rngs, layer=i) for i in range(c.num_layers)]),
            norm=LayerNorm(c.width),
            head=Linear(c.width, c.vocab_size, bias=False, init=head_init, rngs=rngs),
        )
        self.norm_embed = LayerNorm(c.width)

    def embed_tokens(self, tokens):
        """Embed int (...) as float32 (..., width), normalized because the table starts at 1e-4."""
        return self.norm_embed(self.embed(tokens))

    def extras(self, state, xs, reset=None):
        """Return the first layer's values (version 7), which every layer mixes into its own.

        The first layer gets them, too, so that all layers are equal: v + (v - v) * gate is v.
        """
        if self.config.version != 7:
            return ()
        first = layer_of(self.layers, 0)
        normed = first.norm_time(xs)
        before = state.time.shift[:, 0]
        if xs.ndim == 3:
            before = token_shift(normed, before, reset)
        return (first.time.values(normed, before),)
