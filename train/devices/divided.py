"""Models that divide their arrays over the mesh axis "tensor" themselves (trait `divided`)."""

from collections.abc import Callable

import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.models.contract import traits_of
from jaxmodels.tree import flatten
from train.model import build_model


def divided_by(config: ConfigDict) -> Callable[[str], bool] | None:
    """Return the trait `divided` if the config makes use of it; reject meshes unfit for a model."""
    tensor = config.mesh.tensor
    if tensor == 1:
        return None
    model = jax.eval_shape(lambda: build_model(config))
    traits = traits_of(model)
    if traits.replicated_only:
        raise UserError(
            f"config.mesh.tensor={tensor} splits what kernel='pallas' needs whole; "
            "set tensor=1 or kernel='xla'"
        )
    if traits.divided is None:
        return None
    if config.mesh.fsdp > 1:
        raise UserError(
            f"config.mesh.fsdp={config.mesh.fsdp}: {config.model} is split over mesh.tensor alone; "
            "set fsdp=1"
        )
    for name, x in flatten(model).items():
        if traits.divided(name) and x.shape[0] % tensor:
            raise UserError(
                f"config.mesh.tensor={tensor} does not divide {name}, {x.shape[0]} rows; choose "
                "numbers of which one divides the other"
            )
    return traits.divided
