"""Sequence lengths that grow during a run (docs/systems.md, G-25: Grow-P2, State-Sync).

    curriculum = ((0.0, 128), (0.05, 256), (0.25, 512))     (fraction of the steps, tokens per row)
    curriculum = ((0.0, 128, 1.0), (0.05, 256, 0.9))        and the factor on the learning rate

Weights, moments and carried state are kept on a change of length, and every row continues where it
stopped. The number of rows is constant: tokens per step grow by new / old and, as State-Sync asks,
the learning rate is divided by that unless a factor is given (Grow-P2: 1, 0.9, 0.8, 0.7). `seq_len`
remains the length of validation.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Length:
    """A sequence length, its first step, and its factor on the learning rate."""

    start: int
    seq_len: int
    lr_factor: float


def lengths_of(config: ConfigDict) -> tuple[Length, ...]:
    """Return the lengths of a run in order, one without curriculum; raise UserError if invalid."""
    if not config.curriculum:
        return (Length(0, config.seq_len, 1.0),)
    if config.data.mode != "tracks":
        raise UserError("config.curriculum: needs rows that continue; set data.mode='tracks'")
    lengths: list[Length] = []
    for part in config.curriculum:
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise UserError(f"config.curriculum: entries must be (fraction, seq_len), got {part!r}")
        fraction, seq_len, *factor = part
        if not (
            _number(fraction) and 0 <= fraction < 1 and isinstance(seq_len, int) and seq_len > 0
        ):
            raise UserError(
                f"config.curriculum: needs a fraction in [0, 1) and a length above 0, got {part!r}"
            )
        if factor and not (_number(factor[0]) and factor[0] > 0 and math.isfinite(factor[0])):
            raise UserError(f"config.curriculum: the rate factor must be positive, got {part!r}")
        start = round(fraction * config.steps)
        if start <= (lengths[-1].start if lengths else -1) or (not lengths and start):
            raise UserError("config.curriculum: fractions must start at 0 and ascend by >= 1 step")
        first = lengths[0].seq_len if lengths else seq_len
        lengths.append(Length(start, seq_len, float(factor[0]) if factor else first / seq_len))
    return tuple(lengths)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def length_at(lengths: tuple[Length, ...], step: int) -> Length:
    """Return the length in effect after `step` updates."""
    return [length for length in lengths if length.start <= step][-1]


def scaled(schedule: Callable, lengths: tuple[Length, ...]) -> Callable:
    """Multiply the schedule (step -> learning rate) by the factor of the length at each step."""
    if len(lengths) == 1 and lengths[0].lr_factor == 1.0:
        return schedule
    starts = tuple(length.start for length in lengths)
    factors = tuple(length.lr_factor for length in lengths)

    def rate(step):
        index = jnp.searchsorted(jnp.array(starts), step, side="right") - 1
        return schedule(step) * jnp.array(factors, jnp.float32)[index]

    return rate
