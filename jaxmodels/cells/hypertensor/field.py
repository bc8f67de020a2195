"""The state of a HyperTensor field, its settings and its initial values (F-08 to F-14)."""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.cells.base import not_negative, one_of, positive
from jaxmodels.errors import UserError
from jaxmodels.ops.common.integer_hash import GOLDEN
from jaxmodels.ops.common.rounding import random_bits, stochastic_round
from jaxmodels.ops.field import DISTANCES, INTERPOLATIONS, WEIGHTINGS

STORAGE = ("float16", "float16_kahan", "float16_nearest", "float32")
REST = 2.0**11  # what rounding to float16 leaves is at most 2^-11 of the number
BLOCK = 64  # tensors that are drawn together
STEPS = ("fixed", "normalized", "recursive")


@dataclasses.dataclass(frozen=True)
class FieldConfig:
    """Settings of a field.

    Attributes:
      inputs: d, size of an input.
      outputs: V, size of an output.
      tensors: N.
      top_k: K, the nearest tensors that answer; at least 1, capped at N.
      distance: one of `DISTANCES`.
      weighting: one of `WEIGHTINGS`.
      temperature: of the softmax over distances, in units of distance.
      interpolation: one of `INTERPOLATIONS`.
      step: rule for the columns. "fixed": the source's, rate x gradient. "normalized": the gradient
        over the mass of this batch, so that a column moves by the mean of its residuals (SIRT).
        "recursive": over (1 + mass of all batches) ^ power: recursive least squares with a diagonal
        covariance at power 1, AdaGrad-like at 0.5.
      rate: step size of the columns.
      power: see "recursive".
      geometry_rate: step size of normals and offsets; 0 leaves them. With "fixed", it multiplies
        the gradient; else the gradient over the root of its summed squares, tensor by tensor.
      through_weights: let the gradient of normals, offsets and inputs pass through the weights.
      storage: "float16", rounded stochastically; "float16_kahan": to nearest, with what that leaves
        of normals, offsets and columns beside each number, in twice the memory; "float16_nearest",
        as the source; "float32".
    """

    inputs: int
    outputs: int
    tensors: int = 4096
    top_k: int = 64
    distance: str = "euclidean"
    weighting: str = "softmax"
    temperature: float = 0.03
    interpolation: str = "lerp"
    step: str = "recursive"
    rate: float = 8.0
    power: float = 0.5
    geometry_rate: float = 0.0
    through_weights: bool = True
    storage: str = "float16"

    def __post_init__(self):
        positive(self, "inputs", "outputs", "tensors", "top_k")
        not_negative(self, "rate", "geometry_rate")
        one_of(self, "distance", DISTANCES)
        one_of(self, "weighting", WEIGHTINGS)
        one_of(self, "interpolation", INTERPOLATIONS)
        one_of(self, "step", STEPS)
        one_of(self, "storage", STORAGE)
        if not self.temperature > 0.0:
            raise UserError(f"temperature must be positive, got {self.temperature!r}")
        if not 0.0 < self.power <= 1.0:
            raise UserError(f"power must be in (0, 1], got {self.power!r}")

    @property
    def dtype(self):
        """Return the dtype in which a field is stored."""
        return jnp.float32 if self.storage == "float32" else jnp.float16

    @property
    def nearest(self) -> int:
        """Return K, at most N."""
        return min(self.top_k, self.tensors)


def check_closed_form(config: FieldConfig) -> None:
    """Raise UserError if the gradient through the weights is wanted where no closed form is."""
    c = config
    if c.through_weights and (c.distance, c.weighting) != ("euclidean", "softmax"):
        raise UserError(
            "through_weights has a closed form for distance='euclidean' and weighting='softmax' "
            f"only, got {c.distance!r} and {c.weighting!r}; set through_weights=False"
        )


@struct.dataclass
class Field:
    """A field: parameters and statistics in float16 (or float32, by the config).

    The columns are (N, 3, V), not (N, V, 3): a last axis of 3 would be padded to 128 on a TPU.

    Attributes:
      normal: n, (N, d), unit vectors. The anchor of a tensor is -offset normal.
      offset: delta, (N,).
      bands: (N, 2), dneg < 0 < dpos.
      columns: C, (N, 3, V), at dneg, 0 and dpos.
      mass: (N, 3), sum of the weights that each column has had: usage, and the step size.
      usage: (N,), decaying sum of weights; error: (N,), decaying mean of the loss; movement: (N,),
        decaying sum of the gradient's norm.
      travel: (N,), root of the summed squared gradients of normal and offset.
      updates: int32 scalar, number of updates; counter of the random bits.
      rest: what rounding has left of `normal`, `offset` and `columns`, times `REST`, if sums are
        compensated (Kahan 1965); else None.
    """

    normal: jax.Array
    offset: jax.Array
    bands: jax.Array
    columns: jax.Array
    mass: jax.Array
    usage: jax.Array
    error: jax.Array
    movement: jax.Array
    travel: jax.Array
    updates: jax.Array
    rest: dict[str, jax.Array] | None = None

    def whole(self, name: str) -> jax.Array:
        """Return an array of parameters in float32, with what rounding has left of it."""
        stored = getattr(self, name).astype(jnp.float32)
        return stored if self.rest is None else stored + self.rest[name].astype(jnp.float32) / REST


def random_field(config: FieldConfig, key: jax.Array) -> Field:
    """Return the source's random field: Gaussian normals, bands U(0.1, 1), C ~ N(0, 0.05^2).

    Drawn a few tensors at a time in the dtype of storage: peak memory is that of the field.
    """
    c = config
    normal, offset, bands = jax.random.split(key, 3)
    spans = jax.random.uniform(bands, (c.tensors, 2), jnp.float32, 0.1, 1.0)
    seed = jax.random.bits(key, (), jnp.uint32)

    def row(i):
        own = unit_rows(jax.random.normal(jax.random.fold_in(normal, i), (c.inputs,), jnp.float32))
        bits = random_bits((3, c.outputs), seed + i.astype(jnp.uint32) * jnp.uint32(GOLDEN), 0)
        # The sum of four bytes of a hash is near enough to a normal variate.
        parts = [(bits >> shift & 0xFF).astype(jnp.float32) for shift in (0, 8, 16, 24)]
        return own.astype(c.dtype), (0.05 / 147.8 * (sum(parts) - 510.0)).astype(c.dtype)

    normals, columns = jax.lax.map(row, jnp.arange(c.tensors), batch_size=min(c.tensors, BLOCK))
    zeros, rest = jnp.zeros((c.tensors,), c.dtype), None
    if c.storage == "float16_kahan":
        rest = {"normal": jnp.zeros_like(normals), "columns": jnp.zeros_like(columns)}
        rest["offset"] = zeros
    return Field(
        normal=normals,
        offset=(0.5 * jax.random.normal(offset, (c.tensors,), jnp.float32)).astype(c.dtype),
        bands=(spans * jnp.array([[-1.0, 1.0]])).astype(c.dtype),
        columns=columns,
        mass=jnp.zeros((c.tensors, 3), c.dtype),
        usage=zeros,
        error=zeros,
        movement=zeros,
        travel=zeros,
        updates=jnp.int32(0),
        rest=rest,
    )


def unit_rows(x: jax.Array) -> jax.Array:
    """Scale the rows of x (..., d) to unit length, in float32; rows of zeros stay."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, -1, keepdims=True), 1e-12))


def store(
    config: FieldConfig,
    x: jax.Array,
    counter: jax.Array,
    stream: int,
    first: int | jax.Array = 0,
) -> jax.Array:
    """Round float32 values to the dtype of storage.

    `counter`, `stream` and the place in the array determine the random bits; `first` rows of it are
    on other devices, before those of x. What float16 cannot hold is clipped: the mass of a tensor
    grows as long as it is used.
    """
    if config.storage in ("float16", "float16_kahan"):
        return stochastic_round(x, random_bits(x.shape, counter, stream, first))
    if config.storage == "float16_nearest":
        largest = jnp.float32(jnp.finfo(jnp.float16).max)
        x = jnp.clip(x, -largest, largest)
    return x.astype(config.dtype)


def store_parameters(
    config: FieldConfig, field: Field, new: dict[str, tuple[jax.Array, int]], first=0
) -> dict:
    """Round new float32 values of parameters, each with its stream: fields of `Field` to replace.

    Compensated sums keep what is left; the others are rounded as `store` does.
    """
    if field.rest is None:
        return {name: store(config, x, field.updates, n, first) for name, (x, n) in new.items()}
    stored, rest, largest = {}, dict(field.rest), jnp.float32(jnp.finfo(jnp.float16).max)
    for name, (x, _) in new.items():
        # Of two conversions, to float16 and back, XLA may make none.
        near = jax.lax.reduce_precision(jnp.clip(x, -largest, largest), 5, 10)
        stored[name] = near.astype(jnp.float16)
        rest[name] = (REST * jnp.clip(x - near, -16.0, 16.0)).astype(jnp.float16)
    return stored | {"rest": rest}


def field_bytes(inputs: int, outputs: int, tensors: int = 1, storage: str = "float16") -> int:
    """Return the bytes of normals and columns: in float16, 2 (d + 3 V) a tensor (F-11).

    Compensated and float32 storage take twice that. Offset, bands and statistics add 2 x 10 bytes,
    0.06 % at d = V = 4096.
    """
    size = 2 if storage in ("float16", "float16_nearest") else 4
    return size * (inputs + 3 * outputs) * tensors
