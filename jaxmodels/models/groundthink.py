"""GroundThink: RWKV and Mamba in parallel under scaled residuals, with an attention anchor.

    x <- x + gamma_1 * Mixer(RMSNorm x) ;  x <- x + gamma_2 * ChannelMix(RMSNorm x)
    Mixer: alpha RMSNorm(RWKV x) + (1 - alpha) RMSNorm(Mamba x), at the anchors attention
    ChannelMix: sigma(W_r x) * W_v relu(W_k x)^2

Source: `9to5ninja-projects/groundthink` (V3_RESEARCH_NOTES 2.20, 2.21, 9.6; V4_DESIGN), as designed
there. The code of that repository has no Mamba path; its versions are the presets `v3_as_written`
and `v020` (`cells/grounded_gla.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from jaxmodels.cells.attention import AttentionCell, AttentionConfig
from jaxmodels.cells.base import Cell, head_size_of, not_negative, one_of, positive
from jaxmodels.cells.grounded_gla import GroundedGLACell, GroundedGLAConfig
from jaxmodels.cells.hybrid import INITS, HybridCell, HybridConfig
from jaxmodels.cells.layers import (
    EVERY_COLUMN,
    Embedding,
    Linear,
    LowRank,
    RMSNorm,
    broadcast_to_last_axis,
    symmetric_uniform,
)
from jaxmodels.errors import UserError
from jaxmodels.models.language import LanguageConfig
from jaxmodels.models.observe import intermediates
from jaxmodels.models.segments import Segmented, joined, segments_of

# Layer kinds, repeated to the depth; "sequential" uses the first kind in the lower half.
LAYOUTS = {
    "parallel": ("hybrid",),
    "interleaved": ("rwkv", "mamba"),
    "sequential": ("rwkv", "mamba"),
    "3:1": ("rwkv", "rwkv", "rwkv", "mamba"),
    "1:3": ("rwkv", "mamba", "mamba", "mamba"),
    "rwkv": ("rwkv",),
    "mamba": ("mamba",),
    "attention": ("attention",),
    "gla": ("gla",),
}


@dataclasses.dataclass(frozen=True)
class GroundThinkConfig(LanguageConfig):
    """Configuration of a GroundThink model.

    See `LanguageConfig` for further fields, and `HybridConfig` for the mixer's.

    Attributes:
      layout: "parallel" (both paths in every layer), "interleaved" (R M R M), "sequential" (R R M
        M), "3:1" and "1:3" (RWKV to Mamba), or one kind: "rwkv", "mamba", "attention", "gla".
      attention_layers: 0-based indices of the anchors; None means the middle layer.
      attn_window: attention span of an anchor in tokens, also the size of its key-value cache.
      gamma: initial per-channel scale of both residual branches.
      channel_expansion: hidden width of channel mixing over width.
      adapter_rank: rank of a zero-initialized low-rank map added to each layer; 0 = none.
      decay_sign, grounding, learn_initial_state, base_decay, decay_init, output_gain: for "gla"
        layers, see `GroundedGLAConfig`; in these, `state_norm="read"` means none.
      placement: "pre", or "post" as in v0.2.0: x <- RMSNorm x + RMSNorm(f(RMSNorm x)), no gamma.
      tie_embeddings: share the embedding table with the head.
      logit_cap: c in c tanh(logits / c); 0 = off.
      kernel: "xla" or "pallas", for RWKV and Mamba layers, see `HybridConfig`.
    """

    vocab_size: int = 97
    num_layers: int = 12
    layout: str = "parallel"
    attention_layers: tuple | None = None
    attn_window: int = 256
    head_size: int | None = None
    rwkv_version: int = 6
    mamba_version: int = 2
    rwkv_width: int | None = None
    mamba_width: int | None = None
    mamba_expand: int = 2
    state_dim: int = 16
    alpha: float = 0.6
    learn_alpha: bool = False
    path_norm: bool = True
    gamma: float = 0.01
    channel_expansion: float = 3.5
    state_norm: str = "read"
    state_groups: int | None = None
    norm_every: int = 256
    init: str = "identity"
    decay_groups: tuple = ((0.1, 0.999), (0.9, 0.9))
    write_gate: bool = False
    adapter_rank: int = 0
    decay_sign: str = "correct"
    grounding: bool = True
    learn_initial_state: bool = False
    base_decay: float = 0.0
    decay_init: float = 0.0
    output_gain: float | None = 0.1
    placement: str = "pre"
    tie_embeddings: bool = True
    logit_cap: float = 0.0
    chunk_size: int = 32
    kernel: str = "xla"

    def __post_init__(self):
        super().__post_init__()
        positive(self, "attn_window", *(("state_groups",) if self.state_groups is not None else ()))
        one_of(self, "layout", tuple(LAYOUTS))
        one_of(self, "placement", ("pre", "post"))
        one_of(self, "init", INITS)
        not_negative(self, "gamma", "channel_expansion", "adapter_rank", "logit_cap")
        head_size = head_size_of(self.width, self.head_size, usual=32)
        object.__setattr__(self, "head_size", head_size)
        if self.attention_layers is not None:
            object.__setattr__(self, "attention_layers", tuple(self.attention_layers))
        for layer in self.anchors:
            if not isinstance(layer, int) or not 0 <= layer < self.num_layers:
                raise UserError(
                    f"attention_layers: {layer!r} is not a layer from 0 to {self.num_layers - 1}"
                )
        groups = tuple(tuple(group) for group in self.decay_groups)
        object.__setattr__(self, "decay_groups", groups)
        if self.kernel != "xla" and not set(self.kinds) & {"hybrid", "rwkv", "mamba"}:
            raise UserError(f"kernel={self.kernel!r}: no layer of this layout has kernels")
        for kind in dict.fromkeys(self.kinds):
            self.mixer(kind)  # validates its own fields

    @property
    def anchors(self) -> tuple[int, ...]:
        """Indices of the layers that are attention whatever the layout."""
        middle = (self.num_layers // 2,)
        return middle if self.attention_layers is None else self.attention_layers

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each layer: "hybrid", "rwkv", "mamba", "attention" or "gla"."""
        pattern, depth = LAYOUTS[self.layout], self.num_layers
        if self.layout == "sequential":
            kinds = [pattern[2 * i >= depth] for i in range(depth)]
        else:
            kinds = [pattern[i % len(pattern)] for i in range(depth)]
        for layer in self.anchors:
            kinds[layer] = "attention"
        return tuple(kinds)

    def mixer(self, kind: str):
        """Return the mixer config of a layer of this kind."""
        names = ["width", "head_size", "dtype"]
        if kind == "attention":
            sizes = {"window": self.attn_window}
            return AttentionConfig(**{n: getattr(self, n) for n in names}, **sizes)
        names += ["alpha", "norm_every", "chunk_size"]
        groups = {"state_groups": 4 if self.state_groups is None else self.state_groups}
        if kind == "gla":
            names += ["decay_sign", "grounding", "learn_initial_state", "base_decay"]
            names += ["decay_init", "output_gain"]
            norm = {"state_norm": "none" if self.state_norm == "read" else self.state_norm}
            if self.placement == "post":
                groups = {"state_groups": 0}
            return GroundedGLAConfig(**{n: getattr(self, n) for n in names}, **norm, **groups)
        names += ["rwkv_version", "mamba_version", "rwkv_width", "mamba_width", "mamba_expand"]
        names += ["state_dim", "learn_alpha", "path_norm", "state_norm", "init", "decay_groups"]
        names += ["write_gate", "kernel"]
        fixed = self.rwkv_version == 7 or self.mamba_version == 1  # no groups on reading
        if self.state_groups is None and fixed and self.state_norm == "read":
            groups = {}
        return HybridConfig(kind=kind, **{n: getattr(self, n) for n in names}, **groups)


V3 = {
    "layout": "gla",
    "state_norm": "boundary",
    "decay_sign": "inverted",
    "grounding": False,
    "learn_initial_state": True,
}
V020 = {
    "layout": "gla",
    "num_layers": 6,
    "attention_layers": (),
    "placement": "post",
    "state_norm": "boundary",
    "decay_sign": "inverted",
    "grounding": False,
    "base_decay": 1.0,
    "decay_init": 0.02,
    "output_gain": None,
}
PRESETS = {
    "8m_iso": {"mamba_expand": 1, "channel_expansion": 2.0},
    "v3_no_attn": {"attention_layers": ()},
    "v3_shallow": {"num_layers": 6},
    "v3_wide": {"num_layers": 8, "width": 320},
    "v3_as_written": V3,
    "v3_repaired": {"layout": "gla"},
    "v020": V020,
    "v020_wide": V020 | {"num_layers": 4, "width": 384},
    "125m": {"num_layers": 16, "width": 768, "head_size": 64, "state_dim": 32, "vocab_size": 24576}
    | {"attention_layers": (7, 15), "attn_window": 1024},
}
MIXERS = {"attention": AttentionCell, "gla": GroundedGLACell}


class ChannelMix(nnx.Module):
    """Channel mixing sigma(W_r x) * W_v relu(W_k x)^2, without a token shift."""

    def __init__(self, width: int, expansion: float, *, rngs: nnx.Rngs):
        hidden = int(width * expansion)
        inward, outward = symmetric_uniform(width**-0.5), symmetric_uniform(max(hidden, 1) ** -0.5)
        options = {"init": inward, "undecayed": EVERY_COLUMN, "rngs": rngs}
        self.receptance = Linear(width, width, bias=False, **options)
        self.key = Linear(width, hidden, bias=False, init=inward, rngs=rngs)
        self.value = Linear(hidden, width, bias=False, init=outward, rngs=rngs)

    def __call__(self, x, dtype):
        """Map x (..., C) to (..., C)."""
        hidden = jnp.square(jax.nn.relu(self.key(x, dtype)))
        return jax.nn.sigmoid(self.receptance(x, dtype)) * self.value(hidden, dtype)


class GroundThinkLayer(Cell):
    """Mixer and channel mixing on the residual stream; x, y: (B, C). Its state is the mixer's."""

    def __init__(self, config: GroundThinkConfig, kind: str, *, rngs: nnx.Rngs, layer: int):
        c, width = config, config.width
        self.config = config
        post = c.placement == "post"
        mixer = MIXERS.get(kind, HybridCell)
        self.norm_mixer, self.norm_channel = RMSNorm(width), RMSNorm(width)
        self.mixer = mixer(c.mixer(kind), rngs=rngs, layer=layer, num_layers=c.num_layers)
        self.channel = ChannelMix(width, c.channel_expansion, rngs=rngs)
        self.norm_mixer_out = RMSNorm(width) if post else None
        self.norm_channel_out = RMSNorm(width) if post else None
        gamma = jnp.full((width,), c.gamma, jnp.float32)
        self.gamma_mixer = None if post else nnx.Param(gamma)
        self.gamma_channel = None if post else nnx.Param(gamma)
        if c.learn_initial_state and kind == "attention":
            # Unused by attention, but part of the original parameter count.
            self.idle_h0 = nnx.Param(
                jnp.zeros((width // c.head_size, *(c.head_size,) * 2), jnp.float32)
            )
        rank = c.adapter_rank
        self.adapter = LowRank(width, rank, width, rngs=rngs) if rank else None

    def initial_state(self, batch_size: int):
        """Return the mixer's initial state."""
        return self.mixer.initial_state(batch_size)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        state, y = self.mixer.step(state, self.norm_mixer(x), key)
        return state, self._after(x, y)

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`."""
        state, ys = self.mixer(state, self.norm_mixer(xs), reset, key, lengths=lengths)
        return state, self._after(xs, ys)

    def _after(self, x, y):
        """Add the mixer output y and channel mixing to the residual stream x."""
        x = self._add(x, y, self.norm_mixer, self.norm_mixer_out, self.gamma_mixer)
        normed = self.norm_channel(x)
        y = self.channel(normed, self.config.dtype)
        if self.adapter is not None:
            y = y + self.adapter(normed, self.config.dtype)
        return self._add(x, y, self.norm_channel, self.norm_channel_out, self.gamma_channel)

    def _add(self, x, y, norm_in, norm_out, gamma):
        if norm_out is not None:
            return norm_in(x) + norm_out(y)
        return x + broadcast_to_last_axis(gamma[...], x) * y


class GroundThink(Segmented):
    """GroundThink language model."""

    def __init__(self, config: GroundThinkConfig, *, rngs: nnx.Rngs):
        c = config
        layers = [
            GroundThinkLayer(c, kind, rngs=rngs, layer=layer) for layer, kind in enumerate(c.kinds)
        ]
        normal = nnx.initializers.normal(0.02)
        head = None
        if not c.tie_embeddings:
            head = Linear(c.width, c.vocab_size, bias=False, init=normal, rngs=rngs)
        super().__init__(
            c,
            embed=Embedding(c.vocab_size, c.width, init=normal, rngs=rngs),
            layers=joined(layers, c.kinds),
            norm=RMSNorm(c.width),
            head=head,
        )

    intermediates = intermediates

    def _logits(self, x):
        logits, cap = super()._logits(x), self.config.logit_cap
        return cap * jnp.tanh(logits / cap) if cap else logits

    def parameter_label(self, name: str) -> str:
        """Return "component/role" of a parameter by its path (`train.optim.build.flatten`).

        Components: rwkv, mamba, attention, gla, fusion, channel, embed, head. Roles: matrix,
        dynamics (decays, step sizes, token shifts, initial states), gate, norm. A matrix that also
        computes a gate or step sizes, Mamba's `in_proj` and `x_proj`, is a matrix.
        """
        parts = name.split("/")
        return f"{self._component(parts)}/{_role(*['', '', *parts][-3:])}"

    def _component(self, parts):
        if parts[0] != "layers":
            return {"embed": "embed"}.get(parts[0], "head")
        kind = segments_of(self.kinds)[int(parts[1])][0][int(parts[2])]
        part, *inner = parts[3:]
        if part == "mixer":
            if kind in MIXERS:
                return kind
            return inner[0] if inner[0] in ("rwkv", "mamba") else "fusion"
        return "fusion" if "mixer" in part else "channel"


DYNAMICS = ("decay", "decay_down", "decay_up", "base_decay", "bonus", "removal_scale", "key_scale")
DYNAMICS += ("mix", "mix_x", "mix_down", "mix_up", "A_log", "dt_bias", "D", "conv_taps")
DYNAMICS += ("conv_bias", "grounding_scale", "h0", "idle_h0")


def _role(part, owner, leaf):
    if leaf in DYNAMICS or owner in ("decay", "rate", "residual", "dt_proj"):
        return "dynamics"
    if owner == "gate" or (part, owner) == ("channel", "receptance"):
        return "gate"
    if leaf in ("kernel", "table"):
        return "matrix"
    if leaf.startswith(("gamma", "alpha", "write", "gate")):
        return "gate"
    return "matrix" if owner == "adapter" else "norm"
