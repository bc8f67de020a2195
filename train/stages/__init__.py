"""Runs in a chain, each starting from the weights of the one before (SYSTEMS G-28, G-30).

    run_stages(config, protocol(identity_texts, frozen=("embed",)), "runs/identity")

Each stage is a run of its own in a folder of its own, `<number>_<name>`, with its own log, report
and checkpoints; its optimiser starts afresh, its weights are the previous stage's last ones. What
ends a stage is its number of steps or its controller: the first plateau, or a loss. On the command
line: `python -m train.stages --help`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.python_file import returned_by
from jaxmodels.tree import flatten
from train.config import complete_config, validate_config
from train.devices.processes import raise_everywhere
from train.loop import RunResult, run
from train.model import build_model
from train.optim.param_groups import check_rules, parameter_labels
from train.tasks import open_task


@dataclass(frozen=True)
class Stage:
    """One run of a chain: its name, and the fields ("optimizer.freeze": {...}) that differ."""

    name: str
    changes: Mapping[str, Any]


def protocol(
    identity: Sequence[str], frozen: Sequence[str] = ("embed",), format: str = ""
) -> tuple[Stage, ...]:
    """The three stages of G-30; the first ends at its first plateau.

    1. foundation: the config as it is. 2. induction: the groups `frozen` stand still, the text is
    `identity` (meta-cognitive dialogue, see Data/metacognition), in the `format` given or else the
    config's. 3. alignment: everything learns, on the config's own text again.
    """
    to_plateau = {"control.enabled": True, "control.max_drops": 0, "control.investigate": False}
    freeze = {group: -1 for group in frozen}
    text = {"data.paths": tuple(identity)} | ({"data.format": format} if format else {})
    return (
        Stage("foundation", to_plateau),
        Stage("induction", {"optimizer.freeze": freeze} | text),
        Stage("alignment", {}),
    )


def frozen_until_loss(group: str, loss: float = 7.0) -> tuple[Stage, ...]:
    """G-28: one component frozen until validation loss has come down to `loss`, then all learn."""
    wait = {"control.enabled": True, "control.target_loss": loss}
    return (
        Stage("without", wait | {"optimizer.freeze": {group: -1}}),
        Stage("together", {}),
    )


def folders(stages: Sequence[Stage], workdir: str | Path) -> list[Path]:
    """Return the folder of each stage."""
    return [Path(workdir) / f"{i}_{stage.name}" for i, stage in enumerate(stages, 1)]


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
    return complete_config(fields, source="config")


def read_stages(path: str | Path) -> tuple[Stage, ...]:
    """Read `get_stages()` of a Python file: `Stage`s or (name, {field: value}) pairs.

    Raises:
      UserError: no such file or function, or it returns something else.
    """
    given = returned_by(path, "get_stages", "--stages", "configs/groundthink/stages.py")
    stages = []
    for stage in given if isinstance(given, Sequence) else ():
        pair = (stage.name, stage.changes) if isinstance(stage, Stage) else stage
        if not (isinstance(pair, Sequence) and len(pair) == 2):
            break
        name, changes = pair
        if not (isinstance(name, str) and isinstance(changes, Mapping)):
            break
        stages.append(Stage(name, changes))
    if not stages or len(stages) < len(given):
        raise UserError(
            f"--stages={path}: get_stages() must return a list of (name, {{field: value}}), "
            f"got {given!r:.100}"
        )
    return tuple(stages)


def check_stages(config: ConfigDict, stages: Sequence[Stage]) -> list[ConfigDict]:
    """The complete config of each stage; everything is looked at before any of them is run.

    Raises:
      UserError: two stages of one name or a name that is no folder's, unknown fields or groups,
        values or texts that are refused, texts that are tokenized in different ways.
    """
    if len({stage.name for stage in stages}) < len(stages):
        raise UserError(f"stages: names must differ, got {[stage.name for stage in stages]}")
    configs, tokenizers = [], []
    for stage in stages:
        if not stage.name or "/" in stage.name:
            raise UserError(f"stages: a name is part of a folder's, got {stage.name!r}")
        try:
            one = changed(config, stage.changes)
            validate_config(one)
            task = open_task(one)
            configs.append(one)  # the vocabulary left open
            tokenizers.append(task.corpus.tokenizer.to_json())
            model = jax.eval_shape(lambda task=task: build_model(task.config))
            check_rules(one, parameter_labels(model, flatten(model)))
        except UserError as error:
            raise UserError(f"stage {stage.name!r}: {error}") from error
        if tokenizers[-1] != tokenizers[0]:
            raise UserError(
                f"stage {stage.name!r}: its tokenizer, fitted on other text, differs from that of "
                f"{stages[0].name!r}, and so would the meaning of its tokens; "
                "set data.tokenizer='byte'"
            )
    return configs


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
      UserError: as `train.loop.run`, and as `check_stages`, before the first is run.
    """
    configs = raise_everywhere(lambda: check_stages(config, stages))
    results: list[RunResult] = []
    before = config.init_from
    for folder, one in zip(folders(stages, workdir), configs, strict=True):
        one.init_from = str(before)
        begun = resume and (folder / "config.json").exists()
        results.append(run(one, folder, resume=begun, quiet=quiet, devices=devices))
        if results[-1].status not in ("finished", "stopped"):
            break
        before = folder
    return results
