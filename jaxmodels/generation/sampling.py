"""How tokens are drawn: options of a request, and the draw for rows with options of their own.

The order is that of the field: repetition penalty, temperature, top-k, top-p among what top-k
keeps, min-p. Ties with the last token kept are kept.

Sources: nucleus sampling, arXiv 1904.09751; min-p, arXiv 2407.01082; repetition penalty, arXiv
1909.05858, section 4.1. Shapes: S rows, V vocabulary.
"""

import dataclasses
import math
import numbers

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from jaxmodels.errors import UserError

SEEDS = 2**32
ALL = 2**30  # more than any vocabulary


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Sampling options of a request.

    Attributes:
      temperature: divisor of the logits; 0 selects the most likely token.
      top_k: number of most likely tokens to sample from; None = all.
      top_p: draw from the smallest set of most likely tokens whose probabilities, after temperature
        and top-k, reach this sum; None = all.
      min_p: least probability of a token, as a share of the most likely one's; None = 0.
      repetition_penalty: divides the positive logits, and multiplies the negative ones, of tokens
        that the request's prompt or its drawn tokens have; 1 = off.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0

    def __post_init__(self):
        for name in ("temperature", "top_p", "min_p", "repetition_penalty"):
            value = getattr(self, name)
            optional = value is None and name in ("top_p", "min_p")
            if not optional and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
                raise UserError(f"{name.replace('_', '-')}={value!r}: give a number")
        if self.top_k is not None:
            whole_number("top-k", self.top_k)
        if not 0 <= self.temperature < math.inf:
            raise UserError(
                f"temperature={self.temperature}: give 0 (most likely token) or a number above"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"top-k={self.top_k}: give 1 or more, or leave it out for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"top-p={self.top_p}: give a probability above 0 and at most 1")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise UserError(f"min-p={self.min_p}: give a share from 0 to 1")
        if not 0 < self.repetition_penalty < math.inf:
            raise UserError(
                f"repetition-penalty={self.repetition_penalty}: give a number above 0; 1 = off"
            )


def whole_number(name: str, value) -> int:
    """Return a value of an argument; raise UserError unless it is a whole number."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise UserError(f"{name}={value!r}: give a whole number")
    return int(value)


def checked_seed(seed: int) -> int:
    """Return a seed; raise UserError unless it is a whole number below 2^32."""
    if not 0 <= whole_number("seed", seed) < SEEDS:
        raise UserError(f"seed={seed}: give a whole number below 2^32 = {SEEDS}")
    return int(seed)


@struct.dataclass
class Options:
    """`Sampling` of S rows, each (S,): top_k int32, V or more for all; the others float32.

    `top_p` is 1, `min_p` 0 and `penalty` 1 where they are off.
    """

    temperature: jax.Array
    top_k: jax.Array
    top_p: jax.Array
    min_p: jax.Array
    penalty: jax.Array

    @classmethod
    def rows(cls, samplings) -> "Options":
        """Return the options of some `Sampling`s as NumPy arrays."""
        every = [
            (
                x.temperature,
                min(x.top_k or ALL, ALL),
                x.top_p or 1.0,
                x.min_p or 0.0,
                x.repetition_penalty,
            )
            for x in samplings
        ]
        kinds = (np.float32, np.int32, np.float32, np.float32, np.float32)
        columns = zip(*every, strict=True)
        # A temperature that float32 rounds to 0 selects the most likely token, as 0 does.
        return cls(*(np.array(c, kind) for c, kind in zip(columns, kinds, strict=True)))


def uniforms(seed: jax.Array, count: jax.Array) -> jax.Array:
    """Return float32 (S,) in [0, 1) of the draws number `count` int (S,) of seeds uint32 (S,).

    A number depends on its seed and count alone: neither on the row nor on the other rows.
    """

    def one(seed, count):
        key = jax.random.fold_in(jax.random.key(seed), count)
        return jax.random.uniform(key, dtype=jnp.float32)

    return jax.vmap(one)(seed, count)


def draw(logits: jax.Array, options: Options, seen: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draw a token of every row, int32 (S,), by inverting its cumulative distribution.

    Args:
      logits: float32 (S, V); -inf for tokens that are not allowed.
      options: of the rows.
      seen: bool (S, V), the tokens that the repetition penalty is for.
      uniform: float32 (S,) in [0, 1), the rows' random numbers.
    """
    logits = filtered(logits, options, seen)
    best = jnp.argmax(logits, -1).astype(jnp.int32)

    def sampled():
        shares = jnp.cumsum(jax.nn.softmax(logits, -1), -1)
        # The first place where the sum exceeds the number: its token has a share above 0.
        at = jnp.sum(shares <= (uniform * shares[:, -1])[:, None], -1, dtype=jnp.int32)
        return jnp.where(options.temperature > 0, jnp.minimum(at, logits.shape[-1] - 1), best)

    return jax.lax.cond(jnp.any(options.temperature > 0), sampled, lambda: best)


def filtered(logits: jax.Array, options: Options, seen: jax.Array) -> jax.Array:
    """Return logits (S, V) after penalty, temperature and filters, -inf for what they leave out."""
    penalty = options.penalty[:, None]
    penalised = jnp.where(logits > 0, logits / penalty, logits * penalty)
    logits = jnp.where(seen & (penalty != 1.0), penalised, logits)
    largest = jnp.max(logits, -1, keepdims=True)
    warm = options.temperature > 0
    scaled = (logits - largest) / jnp.where(warm, options.temperature, 1.0)[:, None]
    few = (options.top_k < logits.shape[-1]) | (options.top_p < 1.0)
    lowest = jax.lax.cond(
        jnp.any(few & warm),  # sorting takes longer than a step of a small model
        lambda: jnp.where(few, _lowest(scaled, options), -jnp.inf),
        lambda: jnp.full_like(options.temperature, -jnp.inf),
    )
    lowest = jnp.maximum(lowest, jnp.log(options.min_p))
    kept = (scaled >= lowest[:, None]) | ~warm[:, None]
    return jnp.where(kept, scaled, -jnp.inf)


def _lowest(logits, options):
    """Return the lowest logit (S,) that top-k and top-p keep; `logits` (S, V) are at most 0.

    A threshold is found by halving an interval of the bits of a float32: 31 sums over the
    vocabulary take a tenth of the time of sorting it.
    """
    bits = jax.lax.bitcast_convert_type(logits, jnp.int32)
    keys = jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)  # in the order of the logits

    def smallest(holds):
        """Return the smallest key (S,) for which `holds` (S,) is true, as it is for all above."""

        def halve(_, ends):
            low, high = ends
            middle = (low >> 1) + (high >> 1) + (low & high & 1)  # without an overflow
            true = holds(keys > middle[:, None])
            return jnp.where(true, low, middle), jnp.where(true, middle, high)

        rows = len(logits)
        ends = jnp.full(rows, -(2**31), jnp.int32), jnp.zeros(rows, jnp.int32)
        return jax.lax.fori_loop(0, 31, halve, ends)[1]

    last = smallest(lambda above: jnp.sum(above, -1) < options.top_k)
    shares = jnp.where(keys >= last[:, None], jnp.exp(logits), 0.0)
    most = options.top_p * jnp.sum(shares, -1)
    # Nothing is above the most likely token: at least one is always kept.
    reached = smallest(lambda above: jnp.sum(jnp.where(above, shares, 0.0), -1) < most)
    lowest = jnp.where(options.top_p < 1.0, jnp.maximum(reached, last), last)
    return jnp.min(jnp.where(keys >= lowest[:, None], logits, jnp.inf), -1)
