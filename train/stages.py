"""Runs in a chain, each starting from the weights of the one before (SYSTEMS G-28, G-30).

    run_stages(config, protocol(identity_texts, frozen=("embed",)), "runs/identity")

Each stage is a run of its own in a folder of its own, `<number>_<name>`, with its own log, report
and checkpoints; its optimiser starts afresh, its weights are the previous stage's last ones. What
ends a stage is its number of steps or its controller: the first plateau, or a loss.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.config import complete_config
from train.loop import RunResult, run


@dataclass(frozen=True)
class Stage:
    """One run of a chain: its name, and the fields ("optimizer.freeze": {...}) that differ."""

    name: str
    changes: Mapping[str, Any]


def protocol(identity: Sequence[str], frozen: Sequence[str] = ("embed",)) -> tuple[Stage, ...]:
    """The three stages of G-30; the first ends at its first plateau.

    1. foundation: the config as it is. 2. induction: the groups `frozen` stand still, the text is
    `identity` (meta-cognitive dialogue, see Data/metacognition). 3. alignment: everything learns
    on both.
    """
    to_plateau = {"control.enabled": True, "control.max_drops": 0, "control.investigate": False}
    freeze = {group: -1 for group in frozen}
    return (
        Stage("foundation", to_plateau),
        Stage("induction", {"optimizer.freeze": freeze, "data.paths": tuple(identity)}),
        Stage("alignment", {}),
    )


def frozen_until_loss(group: str, loss: float = 7.0) -> tuple[Stage, ...]:
    """G-28: one component frozen until validation loss has come down to `loss`, then all learn."""
    wait = {"control.enabled": True, "control.target_loss": loss}
    return (
        Stage("without", wait | {"optimizer.freeze": {group: -1}}),
        Stage("together", {}),
    )


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """A complete config that differs in some dotted fields.

    Raises:
      UserError: an unknown field or a value of the wrong type.
    """
    fields = config.to_dict()
    for name, value in changes.items():
        *groups, last = name.split(".")
        node = fields
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return complete_config(fields, source="stage")


def run_stages(
    config: ConfigDict,
    stages: Sequence[Stage],
    workdir: str | Path,
    *,
    resume: bool = False,
    quiet: bool = False,
    devices: Sequence[jax.Device] | None = None,
) -> list[RunResult]:
    """Run the stages one after the other.

    With `resume`, stages that have ended are left as they are (running one again that is finished
    only writes its last line anew), and the one that was interrupted goes on.

    Returns:
      A result for each stage that was run; the last is of one that was interrupted or halted, if
      any was.

    Raises:
      UserError: as `train.loop.run`; two stages of one name.
    """
    if len({stage.name for stage in stages}) < len(stages):
        raise UserError(f"stages: names must differ, got {[stage.name for stage in stages]}")
    results: list[RunResult] = []
    before = config.init_from
    for number, stage in enumerate(stages, 1):
        folder = Path(workdir) / f"{number}_{stage.name}"
        one = changed(config, stage.changes | {"init_from": str(before)})
        begun = resume and (folder / "config.json").exists()
        results.append(run(one, folder, resume=begun, quiet=quiet, devices=devices))
        if results[-1].status not in ("finished", "stopped"):
            break
        before = folder
    return results
