"""Sequence lengths that grow during a run (SYSTEMS G-25: Grow-P2 2.18, State-Sync 2.23).

    curriculum = ((0.0, 128), (0.05, 256), (0.25, 512), (0.75, 1024))     from which share of the
                                                                          steps on, tokens a row
    curriculum = ((0.0, 128, 1.0), (0.05, 256, 0.9), ...)                 and with which factor on
                                                                          the learning rate

On a change of length the weights, the moments and the carried state stay, and every row goes on
where it stopped: rows are constant, so that a step's batch in tokens grows by new / old and the
learning rate is divided by that, which is what 2.23 asks. Where the factors are written out (2.18:
1, 0.9, 0.8, 0.7), they hold instead. `seq_len` remains the length of validation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxmodels.errors import UserError


@dataclass(frozen=True)
class Length:
    """A sequence length, the step from which it holds, and its factor on the learning rate."""

    start: int
    seq_len: int
    lr_factor: float


def lengths_of(config: ConfigDict) -> tuple[Length, ...]:
    """The lengths of a run in order; a single one without a curriculum.

    Raises:
      UserError: a curriculum that makes no sense, or that its data mode cannot follow.
    """
    if not config.curriculum:
        return (Length(0, config.seq_len, 1.0),)
    if config.data.mode != "tracks":
        raise UserError("config.curriculum: rows go on where they stopped; set data.mode='tracks'")
    found: list[Length] = []
    for part in config.curriculum:
        if not isinstance(part, tuple | list) or len(part) not in (2, 3):
            raise UserError(f"config.curriculum: entries are (share, seq_len), got {part!r}")
        share, seq_len, *factor = part
        if not (_number(share) and 0 <= share < 1 and isinstance(seq_len, int) and seq_len > 0):
            raise UserError(
                f"config.curriculum: a share in [0, 1) and a length above 0, got {part!r}"
            )
        if factor and not (_number(factor[0]) and factor[0] > 0 and math.isfinite(factor[0])):
            raise UserError(f"config.curriculum: the factor on the rate is positive, got {part!r}")
        start = round(share * config.steps)
        if start <= (found[-1].start if found else -1) or (not found and start):
            raise UserError("config.curriculum: shares begin at 0 and ascend by a step or more")
        first = found[0].seq_len if found else seq_len
        found.append(Length(start, seq_len, float(factor[0]) if factor else first / seq_len))
    return tuple(found)


def _number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def length_at(lengths: tuple[Length, ...], step: int) -> Length:
    """Return the length of the step that follows `step` updates."""
    return [length for length in lengths if length.start <= step][-1]


def scaled(schedule: Callable, lengths: tuple[Length, ...]) -> Callable:
    """The schedule step -> learning rate times the factor of the length at that step."""
    if len(lengths) == 1 and lengths[0].lr_factor == 1.0:
        return schedule
    starts = tuple(length.start for length in lengths)
    factors = tuple(length.lr_factor for length in lengths)

    def rate(step):
        index = jnp.searchsorted(jnp.array(starts), step, side="right") - 1
        return schedule(step) * jnp.array(factors, jnp.float32)[index]

    return rate
