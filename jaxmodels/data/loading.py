"""What all streams share: batches as a Grain dataset, and a host's share of the rows."""

import grain
import numpy as np

from jaxmodels.errors import UserError


def dataset_of(source, prefetch: int) -> grain.IterDataset:
    """A source whose element is a batch, computed from its step alone, as a dataset.

    Args:
      source: has `len` and `[step]`.
      prefetch: batches made ahead by a thread; 0 = none. Changes speed only.

    Returns:
      `iter()` of it has get_state()/set_state() with next_index == step.
    """
    options = grain.ReadOptions(num_threads=1 if prefetch else 0, prefetch_buffer_size=prefetch)
    return grain.MapDataset.source(source).to_iter_dataset(options)


def host_rows(batch_size: int, host_index: int, host_count: int) -> np.ndarray:
    """int64 (batch_size / host_count,): which rows of a batch a host makes.

    Raises:
      UserError: the rows do not divide over the hosts.
    """
    if batch_size < 1:
        raise UserError(f"batch_size must be positive, got {batch_size}")
    if not 0 <= host_index < host_count:
        raise ValueError(f"host_index {host_index} is not in 0..{host_count - 1}")
    if batch_size % host_count:
        raise UserError(f"batch_size {batch_size} must be a multiple of the {host_count} hosts")
    local = batch_size // host_count
    return np.arange(host_index * local, (host_index + 1) * local, dtype=np.int64)
