"""The controller at work in a run: what it remembers, and how its word reaches the optimiser."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.control.decide import CONTINUE, STOP, Decision, History, Settings, decide
from train.io.log import read_metrics


class Steering:
    """Collects a run's metrics and decides after each validation.

    Every process holds the same numbers, hence takes the same decisions. On resuming, the history
    is read back from metrics.jsonl, up to the step of the checkpoint.

    Attributes:
      stopped: why the run is over, "" as long as it is not.
    """

    def __init__(self, config: ConfigDict, steps_per_epoch: float, workdir: Path, step: int):
        self.settings = Settings(**config.control.to_dict())
        self.enabled = self.settings.enabled
        self.history = History(config.steps, steps_per_epoch, self.settings.probe)
        self.stopped = ""
        if not (self.enabled and step and (workdir / "metrics.jsonl").exists()):
            return
        lines = [line for line in read_metrics(workdir) if "split" in line and line["step"] <= step]
        said_last = lines[-1] if lines and lines[-1]["split"] == "control" else {}
        for line in lines:
            self.history.add(line["step"], line["split"], line)
        if said_last.get("action") == STOP:
            # Killed while it stopped, or resumed after that: only other settings let it go on.
            said = self.history.decisions.pop()
            again = decide(self.history, self.settings)
            self.history.decisions.append(said)
            self.stopped = again.reason if again.action == STOP else ""

    def add(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Take in a line of the log."""
        if self.enabled:
            self.history.add(step, split, values)

    def decide(self, step: int) -> tuple[Decision, dict[str, Any]]:
        """-> (decision after the last validation, its line for the log, {} if there is none)."""
        if not self.enabled:
            return Decision(CONTINUE, ""), {}
        probe = self.settings.probe
        if probe and not self.history.probe:
            raise UserError(f"config.control.probe: validation measures no {probe!r}; leave it out")
        decision = decide(self.history, self.settings)
        self.stopped = decision.reason if decision.action == STOP else ""
        if not self.history.worth_logging(decision):
            return decision, {}
        line = {"action": decision.action, "reason": decision.reason}
        self.history.add(step, "control", line)
        return decision, line


def lowered(lr_scale: Any, factor: float) -> np.float32:
    """The new `TrainState.lr_scale`, from the old one on the host."""
    return np.float32(lr_scale) * np.float32(factor)
