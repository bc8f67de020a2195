"""Memory: refuse a state that no device here could hold, before anything of it is made.

Linux grants more memory than there is, and then ends the process without a word.
"""

import math
import os
from typing import Any

import jax

from jaxmodels.errors import UserError


def check_memory(state: Any) -> None:
    """Raise UserError if a state alone is larger than the memory of the devices that it is for.

    Args:
      state: tree of `ShapeDtypeStruct`s with shardings, as `Placement.template` returns it.
    """
    leaves = jax.tree.leaves(state)
    devices = sorted(leaves[0].sharding.addressable_devices, key=lambda device: device.id)
    need = sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in leaves)
    here, where = _bytes_of(devices[0]), f"a device ({devices[0].device_kind})"
    if devices[0].platform == "cpu":
        need, where = need * len(devices), "this machine"
    if here and need > here:
        raise UserError(
            f"config: parameters, optimizer and carried state take {_human(need)}, {where} has "
            f"{_human(here)}; make model_config or batch_size smaller"
        )


def _bytes_of(device: jax.Device) -> int:
    """Return the memory that a device has, 0 if it does not say."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit", 0)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _human(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
