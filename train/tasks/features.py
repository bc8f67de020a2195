"""Projected contexts on the disk, written once and replayed (docs/systems.md, F-16).

`data.features` names a folder. If it holds no shards yet, the run projects the batches of all its
steps into it before the first; then this run, and every other over the same batches (of another
rate, say), reads the shards instead of projecting. A shard is a batch: its contexts in float16, and
its targets, by which other text is recognized.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxmodels.data.shards import Shards, write_shards
from jaxmodels.errors import UserError
from jaxmodels.models.contract import Batch, traits_of
from jaxmodels.paths import exists, user_path
from train.tasks.task import Task

READ = ("inputs", "reset")  # fields of a batch that a projection may read


def with_features(task: Task, model: Any) -> Task:
    """Add to the training batches the field `features`, float16 (B, T, d), from shards.

    Args:
      task: an opened task; without `data.features` it is returned as it is.
      model: its arrays are not read.

    Raises:
      UserError: a model without a projection, several processes; shards of other contexts or
        fewer steps. The stream raises it at a shard that is damaged, or of other text.
    """
    config = task.config
    if not config.data.features:
        return task
    if (projection := traits_of(model).projection) is None:
        raise UserError(f"config.data.features: {config.model!r} has no contexts to project")
    if jax.process_count() > 1:
        raise UserError("config.data.features: shards are of whole batches; run one process")
    folder = user_path(config.data.features, "config.data.features: ")
    about, project = projection
    note = f"data.features: replayed from {folder}"
    if not exists(folder / Shards.INDEX, "config.data.features: "):
        rows = write_shards(folder, _projected(task, model, project), about)
        note = f"data.features: projected {rows:,} contexts into {folder}"
    shards = Shards(folder, about=about)
    if len(shards) < config.steps:
        raise UserError(
            f"config.data.features: {folder} holds {len(shards)} batches, not steps="
            f"{config.steps}; name another folder"
        )

    def replay(step: int, batch: Batch) -> Batch:
        x, targets = shards[step]
        if not np.array_equal(targets, batch["targets"].reshape(-1)):
            raise UserError(f"{folder}: step {step + 1} is of other text; name another folder")
        return batch | {"features": x.reshape(*batch["targets"].shape, -1)}

    train = task.train.map_with_index(replay)
    return dataclasses.replace(task, train=train, notes=(*task.notes, note))


def _projected(task: Task, model: Any, project) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    config, step = task.config, jax.jit(project)
    fresh = state = model.initial_state(config.batch_size)
    for batch in itertools.islice(iter(task.train), config.steps):
        state, x = step(state, {name: batch[name] for name in READ})
        yield np.asarray(x).reshape(-1, x.shape[-1]), batch["targets"].reshape(-1)
        state = state if config.data.carry_state else fresh
