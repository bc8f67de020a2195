"""A run that begins with the weights of another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax

from jaxmodels.errors import UserError
from jaxmodels.tree import flatten, unflatten
from train.io.checkpoint import load_model


def begin_from(workdir: str | Path, state: Any) -> Any:
    """A fresh state, placed, with the last weights of the run in `workdir` in place of its own.

    A running average begins at them too. Optimiser, carried state and data position stay fresh.

    Raises:
      UserError: no such run, or a model with other parameters.
    """
    trained = flatten(load_model(workdir, "last").model)
    fresh = flatten(state.model)
    for name in sorted(trained.keys() | fresh.keys()):
        shapes = [tree[name].shape if name in tree else "absent" for tree in (trained, fresh)]
        if shapes[0] != shapes[1]:
            raise UserError(
                f"config.init_from: {name} is {shapes[0]} in {workdir} and {shapes[1]} in this "
                "model; give the same model_config"
            )

    def placed():
        return {n: jax.device_put(jax.device_get(trained[n]), x.sharding) for n, x in fresh.items()}

    # Twice: a buffer that the step is given to keep must not be there as another leaf too.
    state = state.replace(model=unflatten(state.model, placed()))
    return state if state.ema is None else state.replace(ema=placed())
