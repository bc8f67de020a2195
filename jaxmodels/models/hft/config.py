"""Configuration of HFT and its presets."""

import dataclasses

from jaxmodels.cells.base import not_negative, one_of, positive
from jaxmodels.cells.hypertensor import FieldConfig
from jaxmodels.cells.hypertensor.field import check_closed_form
from jaxmodels.errors import UserError

EXACT_UP_TO = 20_000  # tensors, F-12
# Segments that a teacher gives, and the fields of their sizes.
TAUGHT = {
    "hidden": "hidden_size",
    "queries": "query_size",
    "keys": "key_size",
    "values": "key_size",
}
SEGMENTS = ("tokens", "ngrams", "order", "embeddings", "phases", *TAUGHT)

PROJECTION = (  # settings that determine a projected context
    *("vocab_size", "window", "segments", "decay", "ngram_orders", "ngram_bins", "hashes"),
    *("ngram_weight", "order_period", "embedding_size", "phases", "hidden_size", "query_size"),
    *("key_size", "sketch_size", "width", "views", "block_norm"),
)


@dataclasses.dataclass(frozen=True)
class HFTConfig:
    """Configuration of HFT (docs/systems.md, F-01 to F-31).

    Attributes:
      vocab_size: V.
      window: tokens of a context, the newest included.
      segments: parts of the raw context vector, out of `SEGMENTS`, in any order.
      decay: of a token's value per token of distance, in (0, 1].
      ngram_orders: n of the hashed n-grams.
      ngram_bins: bins of each order; hashes: hash functions of each, as in a Bloom filter.
      ngram_weight: norm of the n-grams' segment; that of "tokens" is 1.
      order_period: period of token-order hashes.
      embedding_size: of the fixed random embeddings in "embeddings"; phases: pairs of cosine and
        sine in "phases".
      hidden_size: of vectors that a teacher gives for "hidden"; query_size: for "queries".
      key_size: for "keys" and for "values".
      sketch_size: buckets of the CountSketch.
      width: d, of each view; a field reads views x width inputs, or `directions`.
      views: independent block SRHTs.
      block_norm: block size of the source's RMSNorm after the projection; 0 = none.
      whiten_after: batches whose features are only summed, nothing else being learned; from then on
        features are whitened by their principal directions (F-05); 0 = never.
      whiten_power: 1 whitens; between 0 and 1, deviations are raised to 1 - whiten_power; 0 only
        rotates, which with `directions` is PCA.
      directions: principal directions that are kept, those of largest variance, instead of all
        views x width; 0 = all. Until they are known, as many projected features.
      tensors, top_k, distance, weighting, temperature, interpolation, step, rate, power,
        geometry_rate, through_weights, storage: of the predictor, see `FieldConfig`.
      search: "exact": distances to all tensors; "cells": to those in the cells nearest to an input,
        of a quantizer that is rebuilt as the field learns; "auto": cells above 20,000 tensors, if
        distance is "euclidean".
      cell_size: tensors of a cell, in the mean; probes: cells that an input looks into.
      rebuild_every: updates between two quantizers.
      compressor: tensors of a first field, whose outputs the predictor reads beside the
        projection; 0 = none.
      compressed: outputs of the compressor.
      compressor_rate: step size of the compressor.
      compressor_learns: "prediction": by the predictor's gradient alone; "hidden": by itself, to
        give a random projection of the teacher's vectors, as the source does; "both".
      seeding: "contexts": tensors are put at contexts of the first batches, and all start at the
        first batch's distribution of targets, or a teacher's; "k-means": so, but at the means of
        clusters of each batch's contexts; "random": the source's.
      seed_stride: every how many positions of a row a tensor is seeded at; of "k-means", contexts
        of a cluster in the mean, 2 or more.
      relocate_every: updates between relocations; 0 = never. relocated: most tensors of each.
      queue: contexts with high losses that are kept for relocation.
      dead_usage, dead_movement: fractions of the mean below which a tensor is dead.
      dtype: "float32"; matmuls of a field are not rounded further.
    """

    vocab_size: int = 256
    window: int = 16
    segments: tuple[str, ...] = ("tokens", "ngrams")
    decay: float = 0.6
    ngram_orders: tuple[int, ...] = (2, 3, 4, 5, 6)
    ngram_bins: int = 16384
    hashes: int = 2
    ngram_weight: float = 1.8
    order_period: int = 16
    embedding_size: int = 64
    phases: int = 16
    hidden_size: int = 0
    query_size: int = 0
    key_size: int = 0
    sketch_size: int = 4096
    width: int = 512
    views: int = 1
    block_norm: int = 0
    whiten_after: int = 0
    whiten_power: float = 1.0
    directions: int = 0
    tensors: int = 4096
    top_k: int = 64
    distance: str = "euclidean"
    weighting: str = "softmax"
    temperature: float = 0.03
    interpolation: str = "lerp"
    step: str = "recursive"
    rate: float = 8.0
    power: float = 0.5
    geometry_rate: float = 0.4
    through_weights: bool = True
    storage: str = "float16"
    search: str = "auto"
    cell_size: int = 128
    probes: int = 8
    rebuild_every: int = 16
    compressor: int = 0
    compressed: int = 64
    compressor_rate: float = 1.0
    compressor_learns: str = "prediction"
    seeding: str = "contexts"
    seed_stride: int = 1
    relocate_every: int = 16
    relocated: int = 16
    queue: int = 128
    dead_usage: float = 0.05
    dead_movement: float = 0.05
    dtype: str = "float32"

    def __post_init__(self):
        object.__setattr__(self, "segments", tuple(self.segments))
        object.__setattr__(self, "ngram_orders", tuple(self.ngram_orders))
        positive(self, "vocab_size", "window", "ngram_bins", "hashes", "order_period", "width")
        positive(self, "tensors")
        positive(self, "embedding_size", "phases", "sketch_size", "views", "compressed")
        positive(self, "seed_stride", "queue", "relocated")
        not_negative(self, "ngram_weight", "compressor", "compressor_rate", "relocate_every")
        not_negative(self, "whiten_after", "directions")
        if self.directions and not (self.whiten_after and self.directions <= self.projected):
            raise UserError(
                f"directions={self.directions} needs whiten_after, and at most views x width = "
                f"{self.projected}"
            )
        if not 0.0 <= self.whiten_power <= 1.0:
            raise UserError(f"whiten_power must be in [0, 1], got {self.whiten_power!r}")
        not_negative(self, "dead_usage", "dead_movement", "block_norm", *TAUGHT.values())
        positive(self, "cell_size", "probes", "rebuild_every")
        one_of(self, "search", ("auto", "exact", "cells"))
        one_of(self, "compressor_learns", ("prediction", "hidden", "both"))
        one_of(self, "seeding", ("contexts", "k-means", "random"))
        if self.seeding == "k-means" and self.seed_stride < 2:
            raise UserError(
                f"seeding='k-means' needs clusters of seed_stride=2 or more, got {self.seed_stride}"
            )
        one_of(self, "dtype", ("float32",))
        if not self.segments:
            raise UserError("segments must name at least one part of the context")
        for name in self.segments:
            if name not in SEGMENTS:
                raise UserError(f"segments must be out of {', '.join(SEGMENTS)}; got {name!r}")
        if len(set(self.segments)) != len(self.segments):
            raise UserError(f"segments must be distinct, got {self.segments}")
        if not 0.0 < self.decay <= 1.0:
            raise UserError(f"decay must be in (0, 1], got {self.decay!r}")
        bad = [n for n in self.ngram_orders if not 1 <= n <= self.window]
        if "ngrams" in self.segments and (bad or not self.ngram_orders):
            raise UserError(
                f"ngram_orders must be from 1 to window={self.window}, got {self.ngram_orders}"
            )
        for name, size in TAUGHT.items():
            if name in self.segments and not getattr(self, size):
                raise UserError(f"segment {name!r} needs a {size}, that of a teacher's vectors")
        if self.compressor_learns != "prediction" and "hidden" not in self.segments:
            raise UserError(
                f"compressor_learns={self.compressor_learns!r} needs the segment 'hidden', got "
                f"segments={self.segments}"
            )
        if self.sketch_size & (self.sketch_size - 1):
            raise UserError(f"sketch_size must be a power of two, got {self.sketch_size}")
        if self.block_norm and self.width % self.block_norm:
            raise UserError(f"block_norm={self.block_norm} must divide width={self.width}")
        if self.relocated > self.tensors:
            raise UserError(f"relocated={self.relocated} exceeds tensors={self.tensors}")
        if self.cells and self.distance != "euclidean":
            raise UserError(
                f"search='cells' looks for near anchors, but distance={self.distance!r}; set "
                "search='exact'"
            )
        _ = self.predictor, self.first  # validate their own fields
        if self.geometry_rate or self.compressor:
            check_closed_form(self.predictor)

    @property
    def projected(self) -> int:
        """Return the size of a projected context."""
        return self.views * self.width

    @property
    def features(self) -> int:
        """Return the size of what a field reads of a projected context."""
        return self.directions or self.projected

    @property
    def cells(self) -> int:
        """Return the number of cells of the predictor's quantizer; 0 = exact search."""
        large = self.tensors > EXACT_UP_TO and self.distance == "euclidean"
        wanted = self.search == "cells" or (self.search == "auto" and large)
        return -(-self.tensors // self.cell_size) if wanted else 0

    @property
    def predictor(self) -> FieldConfig:
        """Return the settings of the field that predicts."""
        more = self.compressed if self.compressor else 0
        return FieldConfig(
            inputs=self.features + more,
            outputs=self.vocab_size,
            tensors=self.tensors,
            top_k=self.top_k,
            distance=self.distance,
            weighting=self.weighting,
            temperature=self.temperature,
            interpolation=self.interpolation,
            step=self.step,
            rate=self.rate,
            power=self.power,
            geometry_rate=self.geometry_rate,
            through_weights=self.through_weights,
            storage=self.storage,
        )

    @property
    def first(self) -> FieldConfig | None:
        """Return the settings of the compressor, None without one."""
        if not self.compressor:
            return None
        return dataclasses.replace(
            self.predictor,
            inputs=self.features,
            outputs=self.compressed,
            tensors=self.compressor,
            rate=self.compressor_rate,
        )


PRESETS = {
    "base": {},
    "tiny": {"tensors": 512, "width": 128, "sketch_size": 1024, "top_k": 32},
    # The source's final settings, at a size that runs; docs/results/hft.md tells what each costs.
    "as_written": {
        "segments": ("tokens", "ngrams", "phases"),
        "distance": "hybrid_exp",
        "weighting": "softmax",
        "temperature": 0.8,
        "interpolation": "hermite",
        "step": "fixed",
        "rate": 0.03,
        "geometry_rate": 0.003,
        "through_weights": False,
        "storage": "float16_nearest",
        "top_k": 256,
        "ngram_orders": (2,),
        "block_norm": 256,
        "seeding": "random",
        "relocate_every": 0,
    },
}
