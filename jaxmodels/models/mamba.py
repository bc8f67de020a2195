"""Mamba-1 and Mamba-2 language models: x <- x + Mamba(RMSNorm x), one norm before the head.

Source: state-spaces/mamba (mamba_ssm/models/mixer_seq_simple.py).
"""

import dataclasses

from flax import nnx

from jaxmodels.cells.base import KERNELS, Cell, one_of, positive
from jaxmodels.cells.layers import Embedding, Linear, RMSNorm
from jaxmodels.cells.mamba1 import Mamba1Cell, Mamba1Config
from jaxmodels.cells.mamba2 import Mamba2Cell, Mamba2Config
from jaxmodels.errors import UserError
from jaxmodels.models.language import LanguageConfig, LanguageModel, stack


@dataclasses.dataclass(frozen=True)
class MambaConfig(LanguageConfig):
    """Configuration of a Mamba language model; see `LanguageConfig` for further fields.

    Attributes:
      version: 1 or 2.
      state_size: state size per channel (version 1) or per head (2); None means 16 or 128.
      expand: inner width over width.
      conv_size: taps of the short convolution.
      dt_rank: for version 1; None means ceil(width / 16).
      head_size: for version 2; None means 64, or the inner width if that is smaller.
      groups: for version 2, number of head groups that share B and C.
      chunk_size: tokens per chunk of the chunked scan; None means the cell's default.
      norm_eps: epsilon of every RMSNorm.
      tie_embeddings: share the embedding table with the head.
      kernel: "xla" or "pallas", see the cells.
    """

    version: int = 2
    state_size: int | None = None
    expand: int = 2
    conv_size: int = 4
    dt_rank: int | None = None
    head_size: int | None = None
    groups: int = 1
    chunk_size: int | None = None
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    kernel: str = "xla"

    def __post_init__(self):
        super().__post_init__()
        if self.version not in (1, 2):
            raise UserError(f"version must be 1 or 2, got {self.version!r}")
        positive(self, "expand", "conv_size", "groups")
        if self.version == 1 and (self.head_size is not None or self.groups != 1):
            raise UserError("version 1 has no heads; leave head_size None and groups 1")
        if self.version == 2 and self.dt_rank is not None:
            raise UserError("dt_rank belongs to version 1; leave it None")
        one_of(self, "kernel", tuple(KERNELS))
        _ = self.cell  # validates its own fields

    @property
    def cell(self) -> Mamba1Config | Mamba2Config:
        """Return the config of the cell."""
        names = ["width", "expand", "conv_size", "dtype", "kernel"]
        names += [n for n in ("state_size", "chunk_size") if getattr(self, n) is not None]
        if self.version == 1:
            names += ["dt_rank"]
            return Mamba1Config(**{name: getattr(self, name) for name in names})
        names += ["head_size", "groups", "norm_eps"]
        return Mamba2Config(**{name: getattr(self, name) for name in names})


PRESETS = {"1": {"version": 1}, "2": {"version": 2}}
CELL = {1: Mamba1Cell, 2: Mamba2Cell}


class MambaLayer(Cell):
    """Layer x + Mamba(RMSNorm x); x, y: (B, C)."""

    def __init__(self, config: MambaConfig, *, rngs: nnx.Rngs, layer: int = 0):
        self.config = config
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.mixer = CELL[config.version](
            config.cell, rngs=rngs, layer=layer, num_layers=config.num_layers
        )

    def initial_state(self, batch_size: int):
        """Return the cell's initial state."""
        return self.mixer.initial_state(batch_size)

    def step(self, state, x, key=None):
        """See `Cell.step`."""
        state, y = self.mixer.step(state, self.norm(x), key)
        return state, x + y

    def __call__(self, state, xs, reset=None, key=None, lengths=None):
        """See `Cell.scan`."""
        state, ys = self.mixer(state, self.norm(xs), reset, key, lengths=lengths)
        return state, xs + ys


class Mamba(LanguageModel):
    """Mamba language model."""

    def __init__(self, config: MambaConfig, *, rngs: nnx.Rngs):
        c = config
        normal = nnx.initializers.normal(0.02)
        head = None
        if not c.tie_embeddings:
            head = Linear(c.width, c.vocab_size, bias=False, init=normal, rngs=rngs)
        super().__init__(
            c,
            embed=Embedding(c.vocab_size, c.width, init=normal, rngs=rngs),
            layers=stack([MambaLayer(c, rngs=rngs, layer=i) for i in range(c.num_layers)]),
            norm=RMSNorm(c.width, c.norm_eps),
            head=head,
        )
