"""Shared parts of the tasks: checks of their fields, random generators, batches."""

import numpy as np

from jaxmodels.errors import UserError


def require_whole(task, **least: int) -> None:
    """Raise UserError unless each named field of the task is an integer of at least that size."""
    for name, smallest in least.items():
        value = getattr(task, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < smallest:
            raise UserError(
                f"{type(task).__name__}: {name} must be an integer >= {smallest}, got {value!r}"
            )


def require_room(task, tokens: int, fields: str) -> None:
    """Raise UserError unless `tokens` fit into the task's seq_len; `fields` names their cause."""
    if tokens > task.seq_len:
        raise UserError(
            f"{type(task).__name__}: {fields} takes {tokens} tokens, seq_len is {task.seq_len}: "
            "raise seq_len or lower these fields"
        )


def batch_generator(seed: int, index: int, batch_size: int) -> np.random.Generator:
    """Return the generator of batch `index`; raise UserError for invalid arguments."""
    if seed < 0 or index < 0 or batch_size < 1:
        raise UserError(
            "a batch needs seed >= 0, index >= 0 and batch_size >= 1; "
            f"got {seed}, {index}, {batch_size}"
        )
    return np.random.default_rng([seed, index])


def make_batch(inputs, targets, scored) -> dict[str, np.ndarray]:
    """Return a batch of three (batch, time) arrays; targets are 0 where unscored."""
    reset = np.zeros(inputs.shape, bool)
    reset[:, 0] = True
    return {
        "inputs": inputs.astype(np.int32),
        "targets": np.where(scored, targets, 0).astype(np.int32),
        "weights": scored.astype(np.float32),
        "reset": reset,
    }
