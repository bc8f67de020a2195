"""Baseline transformer: pre-norm, RoPE, SwiGLU, sliding-window attention.

    x <- x + Attention(RMSNorm x) ;  x <- x + SwiGLU(RMSNorm x) ;  RMSNorm before the head

Its state is the key-value ring buffer of `cells/attention.py`, so it streams, carries state between
segments and resets in mid-sequence as the recurrent models do.
"""

import dataclasses
import functools

from flax import nnx

from jaxmodels.cells.attention import AttentionCell, AttentionConfig
from jaxmodels.cells.base import head_size_of, positive
from jaxmodels.models.language import LanguageConfig, LanguageModel
from jaxmodels.models.stack import residual_parts


@dataclasses.dataclass(frozen=True)
class TransformerConfig(LanguageConfig):
    """Configuration of the transformer; see `LanguageConfig` for further fields.

    Attributes:
      head_size: channels per attention head; None means 64, or the width if that is smaller.
      kv_heads: key and value heads; None means as many as query heads.
      window: attention span in tokens, including the current one.
      rope_base: see `AttentionConfig`.
      mlp_size: hidden width of SwiGLU; None means 8/3 of the width, rounded up to a multiple of 32.
      tie_embeddings: share the embedding table with the head.
    """

    head_size: int | None = None
    kv_heads: int | None = None
    window: int = 1024
    rope_base: float = 1e4
    mlp_size: int | None = None
    tie_embeddings: bool = False

    def __post_init__(self):
        super().__post_init__()
        positive(self, "window")
        object.__setattr__(self, "head_size", head_size_of(self.width, self.head_size))
        if self.mlp_size is None:
            object.__setattr__(self, "mlp_size", -(-8 * self.width // 3 // 32) * 32)
        positive(self, "mlp_size")
        _ = self.cell  # validates its own fields

    @property
    def cell(self) -> AttentionConfig:
        """Return the config of the attention cell."""
        names = ("width", "head_size", "kv_heads", "window", "rope_base", "dtype")
        return AttentionConfig(**{name: getattr(self, name) for name in names})


PRESETS = {}


class Transformer(LanguageModel):
    """Transformer language model."""

    def __init__(self, config: TransformerConfig, *, rngs: nnx.Rngs):
        make_cell = functools.partial(AttentionCell, config.cell)
        super().__init__(config, **residual_parts(config, make_cell, rngs))
