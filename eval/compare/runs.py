"""The runs that are compared: which, how they are trained and measured, what is kept of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from eval.log import json_object, read_log
from eval.sweep.runner import folder_name
from jaxmodels.errors import UserError
from jaxmodels.python_file import returned_by
from train.config import (
    apply_overrides,
    differences,
    load_config,
    read_config,
    validate_config,
)

MEMORY = "memory"  # beside the runs' names
ENOUGH = 0.9  # exact share of validation that counts as converged (L-70, L-72)


@dataclass(frozen=True)
class Run:
    """One run: its name, seed, and complete config."""

    name: str
    seed: int
    config: ConfigDict

    def folder(self, workdir: Path) -> Path:
        """Where it lies."""
        return workdir / folder_name(self.name) / f"seed{self.seed}"


def read_runs(
    path: str,
    seeds: Sequence[int],
    only: Sequence[str],
    overrides: Sequence[str],
    data: Sequence[str] = (),
) -> tuple[list[Run], dict[str, tuple[int, int, float]]]:
    """-> (all runs, seed by seed, presets whose memory is asked, {} if none).

    Raises:
      UserError: a file that names no runs, an unknown name, a field that does not exist.
    """
    function = "get_comparison"
    given = returned_by(Path(path), function, "--config", "configs/hrlm/claims.py")
    if not isinstance(given, dict) or not given.get("runs"):
        raise UserError(f"--config={path}: {function}() returns no 'runs', name -> (file, fields)")
    listed, presets = given["runs"], given.get("memory", {})
    names = [*listed, *([MEMORY] if presets else [])]
    for name in only:
        if name not in names:
            raise UserError(f"--only {name!r}: no such run; there is: {', '.join(names)}")
    planned = [
        Run(name, seed, _config(file, changes, seed, overrides, data))
        for seed in seeds
        for name, (file, changes) in listed.items()
    ]
    return planned, presets


def _config(file, changes: dict[str, Any], seed: int, overrides, data) -> ConfigDict:
    config = load_config(file, [])
    if data:
        config.data.paths = tuple(data)
    arguments = []
    for name, value in changes.items():
        text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
        arguments.append(f"--config.{name}={text}")
    apply_overrides(config, [*arguments, *overrides, f"--config.seed={seed}"])
    validate_config(config)
    return config


def train_and_measure(run: Run, workdir: Path, command: str, say=print) -> None:
    """Trains unless it is finished, and measures unless that was done since.

    Raises:
      UserError: the folder holds a run of another config.
      KeyboardInterrupt: it was stopped, and saved.
    """
    import jax

    from eval.evaluators import answers as measure
    from train.loop import run as train

    folder = run.folder(workdir)
    name = f"{run.name}, seed {run.seed}"
    if (folder / "config.json").exists():
        old = read_config(folder / "config.json")
        # What is resolved from the data when a run starts is 0 before.
        changed = [f for f in differences(old, run.config) if f != "model_config.vocab_size"]
        if changed:
            raise UserError(
                f"{folder}: holds a run with another {', '.join(changed)}; name another --workdir"
            )
    if _measured(folder) and read_log(folder).final:
        say(f"{name}: measured before")
        return
    start = time.perf_counter()
    say(f"{name}:")
    result = train(run.config, folder, resume=folder.exists())
    if result.status == "interrupted":
        raise KeyboardInterrupt
    if result.status == "halted":
        say(f"{name}: {result.message}")
        return
    found = measure.measure(folder, command=command)
    measure.write(folder, found)
    jax.clear_caches()  # the next run compiles programs of its own
    exact = 100 * found["splits"]["unseen"]["exact"]
    say(f"{name}: {exact:.1f} % of unseen exactly, {time.perf_counter() - start:.0f} s")


def _measured(folder: Path) -> bool:
    """Whether its answers are those of `measure` as it is called here: by hand one may ask less."""
    from eval.evaluators.answers import MOST

    found = json_object(folder / "answers.json")
    if not found:
        return False
    rounds = read_config(folder / "config.json").model_config.get("halt_max_steps", 1)
    asked = found.get("checkpoint"), found.get("max_pairs"), found.get("rounds")
    return asked == ("best", MOST, rounds)


def outcome(run: Run, workdir: Path) -> dict[str, Any]:
    """What is compared; {} if it has not been measured."""
    folder = run.folder(workdir)
    answers = json_object(folder / "answers.json")
    if not answers:
        return {}
    log = read_log(folder)
    exact = zip(*log.series("valid", "exact"), strict=True)
    kept = ("model", "parameters", "training_pairs", "split", "halt", "rounds", "by_task")
    kept += ("by_difficulty", "left_out", "device", "versions")
    return {
        "name": run.name,
        "seed": run.seed,
        **{key: answers[key] for key in kept},
        "scores": answers["splits"],
        "speed": answers["speed"],
        "rounds_against_difficulty": answers["rounds_against_difficulty"],
        "steps": log.config["steps"],
        "converged": next((step for step, share in exact if share > ENOUGH), None),
        "seconds": round(log.seconds, 1),
    }
