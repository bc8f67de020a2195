"""Config fields about devices: `parallel` and `mesh.*`."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Field, Group, at_least, one_of

PARALLEL = ("pmap", "shard_map")

GROUP = Group(
    "",
    (
        Field(
            "parallel",
            "pmap",
            "pmap: data parallel. shard_map: over a mesh, which may also split parameters.",
            one_of(PARALLEL),
            resume=True,
        ),
    ),
)
MESH = Group(
    "mesh",
    (
        Field(
            "fsdp",
            1,
            "Devices over which parameters and rows are split, for shard_map.",
            at_least(1),
            resume=True,
        ),
        Field(
            "tensor",
            1,
            "Devices over which the last axis of kernels is split, for shard_map.",
            at_least(1),
            resume=True,
        ),
    ),
)


def check_rows(config: ConfigDict, device_count: int) -> None:
    """Refuse a batch that does not divide over the devices.

    Args:
      config: complete config.
      device_count: devices that share out the rows, over all processes.

    Raises:
      UserError: names `batch_size` and the number that it must be a multiple of.
    """
    parts = device_count * config.optimizer.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"config.batch_size: {config.batch_size} rows do not divide over {device_count} "
            f"devices x accumulate {config.optimizer.accumulate}; make it a multiple of {parts}"
        )
