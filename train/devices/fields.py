"""Config fields `parallel` and `mesh.*`."""

from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.fields import Group, at_least, free, one_of

PARALLEL = ("pmap", "shard_map")

_PARALLEL = "pmap (data parallel), or shard_map (a mesh, which may also split parameters)."
GROUP = Group("", (free("parallel", "pmap", _PARALLEL, one_of(PARALLEL)),))
_TENSOR = "Devices that split the last axis of kernels; of HFT, its tensors."
MESH = Group(
    "mesh",
    (
        free("fsdp", 1, "Devices that split parameters and rows (shard_map).", at_least(1)),
        free("tensor", 1, _TENSOR, at_least(1)),
    ),
)


def check_rows(config: ConfigDict, device_count: int) -> None:
    """Raise UserError unless `batch_size` divides over `device_count` (all processes' devices)."""
    parts = device_count * config.optimizer.accumulate
    if config.batch_size % parts:
        raise UserError(
            f"config.batch_size: {config.batch_size} rows do not divide over {device_count} "
            f"devices x accumulate {config.optimizer.accumulate}; make it a multiple of {parts}"
        )
