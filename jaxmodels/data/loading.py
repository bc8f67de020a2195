"""Grain datasets of batches, and the rows of a batch that one host makes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from jaxmodels.errors import UserError
from jaxmodels.extras import import_extra

if TYPE_CHECKING:
    import grain


@dataclasses.dataclass(frozen=True)
class _Source:
    batch: Callable[[int], dict[str, np.ndarray]]
    length: int

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.batch(int(step))


def grain_dataset(
    batch: Callable[[int], dict[str, np.ndarray]], prefetch: int, length: int = sys.maxsize
) -> grain.IterDataset:
    """Return a Grain dataset of batches.

    Args:
      batch: step -> batch, a function of the step alone.
      length: number of batches.
      prefetch: batches made ahead by a thread; 0 = none. Affects speed only.

    Returns:
      A dataset whose `iter()` has get_state()/set_state() with next_index == step.

    Raises:
      UserError: Grain is not installed.
    """
    grain = import_extra("grain")
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=prefetch)
    return grain.MapDataset.source(_Source(batch, length)).to_iter_dataset(options)


def rows_of_host(batch_size: int, host_index: int, host_count: int) -> np.ndarray:
    """Return the rows of a batch that a host makes, int64 (batch_size / host_count,).

    Raises:
      UserError: batch_size is not a positive multiple of host_count.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be positive, got {batch_size}")
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index {host_index} is not in 0..{host_count - 1}")
    if batch_size % host_count:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {host_count} hosts")
    local = batch_size // host_count
    return np.arange(host_index * local, (host_index + 1) * local, dtype=np.int64)
