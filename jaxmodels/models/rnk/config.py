"""Configuration of RNK, its presets, and the byte values that are no text.

UTF-8 never uses the bytes 0xC0, 0xC1 and 0xF5 to 0xFF, so three of them can mark structure without
a larger vocabulary. With another `vocab_size` they are its last three ids.
"""

import dataclasses

from jaxmodels.cells.base import not_negative, one_of, positive
from jaxmodels.data.chat.labels import INTENTS
from jaxmodels.errors import UserError
from jaxmodels.models.mamba import MambaConfig

CHUNKINGS = ("fixed", "space", "learned")
PLANNERS = ("rnk", "hrm", "trm", "none")


@dataclasses.dataclass(frozen=True)
class RNKConfig:
    """Configuration of RNK (docs/systems.md, R-01 to R-35).

    Attributes:
      vocab_size: V; 256 for bytes.
      width: d, of embeddings, Mamba, plans and the GRU.
      hidden_size: of the planner's and refiner's MLPs.
      num_layers: Mamba layers over chunks.
      mamba: version of the Mamba layers, 1 or 2.
      state_size: of the Mamba layers; None means the version's default.
      chunking: end of a chunk. "fixed": after `chunk_size` bytes; "space": after the first
        space-like byte of a run (SpaceByte, arXiv 2404.14408); "learned": where neighbouring bytes
        are dissimilar (H-Net, arXiv 2507.07955).
      chunk_size: bytes per chunk if fixed, else the most.
      min_chunk: fewest bytes of a chunk that is not fixed.
      ratio_target: bytes per chunk that the ratio loss of "learned" aims at.
      ratio_weight: weight of the ratio loss.
      planner: "rnk": p <- W LN(layers(p)) + 0.1 x, `plan_steps` times; "hrm": two nets that recur
        over a slow and a fast vector; "trm": one net in both roles; "none": the Mamba's output.
      plan_steps: steps of the planner; 0 plans nothing.
      plan_layers: layers of each net.
      plan_smoothing: share of the previous chunk's plan in the next one, in [0, 1).
      refine: refine plans by learned constraints.
      constraints: number of learned constraint vectors.
      decoder_layers: layers of the GRU.
      decoder_state: "carried": the GRU reads on from chunk to chunk; "chunk": it starts every chunk
        from its plan.
      decoder_context: "prompt": the Mamba's output at the end of the prompt; "attention": one
        cross-attention over the prompt's bytes, as the source has it. Ablation: no streaming.
      plan_from: "previous": from chunks before; "own_chunk": the source's leak, the plan of a chunk
        has read it. Ablation: no streaming.
      prompt_at: "end": of the prompt; "byte_index": the source's leak, a byte's index taken for a
        chunk's, so that the intent has read the response. Ablation: no streaming.
      extras: heads for the source's latent and relevance losses.
      stop_weight, intent_weight, answerable_weight, contrastive_weight: weights of the losses.
      consistency_weight: weight of the penalty on a number of stops other than one.
      latent_weight, relevance_weight: weights of the source's further losses, with `extras`.
      temperature: of the contrastive loss.
      intents: names of the classes, in order.
      dtype: dtype of matmuls, "float32" or "bfloat16"; parameters and states are float32.
    """

    vocab_size: int = 256
    width: int = 256
    hidden_size: int = 512
    num_layers: int = 4
    mamba: int = 1
    state_size: int | None = None
    chunking: str = "fixed"
    chunk_size: int = 32
    min_chunk: int = 3
    ratio_target: float = 6.0
    ratio_weight: float = 0.03
    planner: str = "rnk"
    plan_steps: int = 5
    plan_layers: int = 3
    plan_smoothing: float = 0.0
    refine: bool = True
    constraints: int = 4
    decoder_layers: int = 2
    decoder_state: str = "carried"
    decoder_context: str = "prompt"
    plan_from: str = "previous"
    prompt_at: str = "end"
    extras: bool = False
    stop_weight: float = 0.5
    intent_weight: float = 0.2
    answerable_weight: float = 0.3
    contrastive_weight: float = 0.1
    consistency_weight: float = 0.0
    latent_weight: float = 0.0
    relevance_weight: float = 0.0
    temperature: float = 0.1
    intents: tuple[str, ...] = INTENTS
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "intents", tuple(self.intents))
        positive(self, "vocab_size", "width", "hidden_size", "num_layers", "chunk_size")
        positive(self, "min_chunk", "plan_layers", "constraints", "decoder_layers")
        not_negative(self, "plan_steps", "ratio_weight", "stop_weight", "intent_weight")
        not_negative(self, "answerable_weight", "contrastive_weight", "consistency_weight")
        not_negative(self, "latent_weight", "relevance_weight")
        one_of(self, "chunking", CHUNKINGS)
        one_of(self, "planner", PLANNERS)
        one_of(self, "decoder_state", ("carried", "chunk"))
        one_of(self, "decoder_context", ("prompt", "attention"))
        one_of(self, "plan_from", ("previous", "own_chunk"))
        one_of(self, "prompt_at", ("end", "byte_index"))
        if self.vocab_size < 4:
            raise UserError(f"vocab_size must leave ids beside 3 marks, got {self.vocab_size}")
        if self.width % 8:
            raise UserError(f"width must be a multiple of 8, got {self.width}")
        if self.chunking != "fixed" and self.min_chunk > self.chunk_size:
            raise UserError(
                f"min_chunk must not exceed chunk_size={self.chunk_size}, got {self.min_chunk}"
            )
        if not 0.0 <= self.plan_smoothing < 1.0:
            raise UserError(f"plan_smoothing must be in [0, 1), got {self.plan_smoothing!r}")
        if not self.ratio_target > 1.0:
            raise UserError(f"ratio_target must be above 1, got {self.ratio_target!r}")
        if not self.temperature > 0.0:
            raise UserError(f"temperature must be positive, got {self.temperature!r}")
        if (self.latent_weight or self.relevance_weight) and not self.extras:
            raise UserError("latent_weight and relevance_weight need extras=True")
        if len(set(self.intents)) != len(self.intents) or not self.intents:
            raise UserError(f"intents must be distinct names, at least one; got {self.intents!r}")
        _ = self.layers  # validates its own fields

    @property
    def layers(self) -> MambaConfig:
        """Return the config of the Mamba layers over chunks."""
        return MambaConfig(
            version=self.mamba,
            width=self.width,
            num_layers=self.num_layers,
            state_size=self.state_size,
            dtype=self.dtype,
        )

    @property
    def pad(self) -> int:
        """Return the id of padding, which only advances a fixed chunk."""
        return self.vocab_size - 1

    @property
    def begin(self) -> int:
        """Return the id that ends a prompt: the response follows."""
        return self.vocab_size - 2

    @property
    def end(self) -> int:
        """Return the id that ends a response."""
        return self.vocab_size - 3

    @property
    def prompt_gap(self) -> int:
        """Return the bytes after the end of a prompt in which another one is not recognised."""
        return 8 * self.chunk_size

    @property
    def streams(self) -> bool:
        """Return whether the model reads byte by byte; ablations that look ahead do not."""
        ahead = self.decoder_context, self.plan_from, self.prompt_at
        return ahead == ("prompt", "previous", "end")

    def most_chunks(self, time: int) -> int:
        """Return the room for chunks that end within `time` bytes.

        A chunk is full after `fewest` bytes, the one that the segment continues maybe at its first,
        and prompts end one before and one in each gap. Only documents of a few bytes each, three
        or more in a segment, can overflow it.
        """
        fewest = self.chunk_size if self.chunking == "fixed" else self.min_chunk
        return -(-time // fewest) - (-time // self.prompt_gap) + 2


_AS_WRITTEN = {
    "decoder_context": "attention",
    "plan_from": "own_chunk",
    "prompt_at": "byte_index",
    "plan_smoothing": 0.8,
    "extras": True,
}
PRESETS = {
    "base": {},
    "space": {"chunking": "space"},
    "learned": {"chunking": "learned"},
    # The source's layouts: "5.4M", the seed's four layers, and the stale "11.5M".
    "as_written": {"num_layers": 3, **_AS_WRITTEN},
    "as_written_4": {"num_layers": 4, **_AS_WRITTEN},
    "as_written_8k": {"num_layers": 3, "vocab_size": 8192, **_AS_WRITTEN},
    "large": {"width": 512, "hidden_size": 1024, "plan_layers": 4, "decoder_layers": 3},
}
