"""Chains of runs, each starting from the weights of the one before (docs/systems.md, G-28, G-30).

    run_stages(config, protocol(identity_texts, frozen=("embed",)), "runs/identity")

Each stage is a run in its own folder `<number>_<name>`, with a fresh optimizer and the previous
stage's last weights. It ends after its number of steps or by its controller, at the first plateau
or a target loss. Command line: `python -m train.stages --help`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from jaxmodels.paths import user_path
from jaxmodels.python_file import returned_by
from jaxmodels.tree import flatten
from train.config import complete_config, validate_config
from train.devices.processes import raise_everywhere
from train.io.lock import one_run
from train.loop import RunResult, run
from train.model import build_model
from train.optim.param_groups import check_rules, parameter_labels
from train.tasks import open_task


@dataclass(frozen=True)
class Stage:
    """A run of a chain: its name and changed fields, e.g. {"optimizer.freeze": {...}}."""

    name: str
    changes: Mapping[str, Any]


def protocol(
    identity: Sequence[str], frozen: Sequence[str] = ("embed",), format: str = ""
) -> tuple[Stage, ...]:
    """Return the three stages of G-30.

    1. foundation: the config unchanged, until its first plateau. 2. induction: the groups `frozen`
    are frozen, the text is `identity` (meta-cognitive dialogue, e.g. Data/metacognition) in
    `format` (default: the config's). 3. alignment: all parameters, on the config's own text.
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
    """Return the stages of G-28: a component is frozen until validation loss reaches `loss`."""
    wait = {"control.enabled": True, "control.target_loss": loss}
    return (
        Stage("without", wait | {"optimizer.freeze": {group: -1}}),
        Stage("together", {}),
    )


def folders(stages: Sequence[Stage], workdir: str | Path) -> list[Path]:
    """Return the folder of each stage."""
    return [Path(workdir) / f"{i}_{stage.name}" for i, stage in enumerate(stages, 1)]


def changed(config: ConfigDict, changes: Mapping[str, Any]) -> ConfigDict:
    """Return a complete config with some dotted fields changed; raise UserError if invalid."""
    fields = config.to_dict()
    for name, value in changes.items():
        *groups, last = name.split(".")
        node = fields
        for group in groups:
            node = node.setdefault(group, {})
        node[last] = value
    return complete_config(fields, source="config")


def read_stages(path: str | Path) -> tuple[Stage, ...]:
    """Read a file's `get_stages()`: `Stage`s or (name, fields) pairs; else raise UserError."""
    value = returned_by(path, "get_stages", "--stages", "configs/groundthink/stages.py")
    stages = []
    for stage in value if isinstance(value, Sequence) else ():
        match (stage.name, stage.changes) if isinstance(stage, Stage) else stage:
            case (str() as name, Mapping() as changes):
                stages.append(Stage(name, changes))
            case _:
                break
    if not stages or len(stages) < len(value):
        raise UserError(
            f"--stages={path}: get_stages() must return a list of (name, {{field: value}}), "
            f"got {value!r:.100}"
        )
    return tuple(stages)


def check_stages(config: ConfigDict, stages: Sequence[Stage]) -> list[ConfigDict]:
    """Return the complete config of each stage, after checks of all of them.

    Raises:
      UserError: duplicate or invalid stage names, unknown fields or groups, invalid values or
        texts, texts with different tokenizers.
    """
    if len({stage.name for stage in stages}) < len(stages):
        raise UserError(f"stages: names must differ, got {[stage.name for stage in stages]}")
    configs, tokenizers = [], []
    for stage in stages:
        if not stage.name or "/" in stage.name:
            raise UserError(f"stages: names must be valid folder names, got {stage.name!r}")
        try:
            stage_config = changed(config, stage.changes)
            validate_config(stage_config)
            task = open_task(stage_config)
            configs.append(stage_config)  # vocab_size still 0
            tokenizers.append(task.corpus.tokenizer.to_json())
            model = jax.eval_shape(lambda task=task: build_model(task.config))
            check_rules(stage_config, parameter_labels(model, flatten(model)))
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
    """Run the stages in order; with `resume`, continue the one that was interrupted.

    Returns a result for each stage run, up to the first that was interrupted or halted. Raises
    UserError from `check_stages`, before the first run, or from `train.loop.run`.
    """
    workdir = user_path(workdir, "--workdir=")
    configs = raise_everywhere(lambda: check_stages(config, stages))
    results: list[RunResult] = []
    before = config.init_from
    with one_run(workdir, "python -m train.stages"):
        for folder, stage_config in zip(folders(stages, workdir), configs, strict=True):
            stage_config.init_from = str(before)
            started = resume and (folder / "config.json").exists()
            results.append(run(stage_config, folder, resume=started, quiet=quiet, devices=devices))
            if results[-1].status not in ("finished", "stopped"):
                break
            before = folder
    return results
