"""The controller of a run: its history, and the application of its decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from ml_collections import ConfigDict

from jaxmodels.errors import UserError
from train.control.decide import CONTINUE, STOP, Decision, History, decide
from train.control.fields import Settings
from train.control.monitor import ComponentMonitor

if TYPE_CHECKING:
    from train.devices.placement import Placement
    from train.step import TrainState

Write = Callable[[int, str, Mapping[str, Any]], None]


class Controller:
    """Collector of a run's metrics that decides after each validation; inert when disabled.

    All processes hold the same metrics and therefore take the same decisions.

    Args:
      config: complete config.
      steps_per_epoch: steps per pass over the training data; 0 = unknown.
      past: lines of metrics.jsonl up to the step at which the run resumes.
      monitor: inspects the components at each validation, or None.
      write: adds (step, split, values) to the log.
      say: prints a line.

    Attributes:
      stopped: reason for ending the run, "" while it continues.
    """

    def __init__(
        self,
        config: ConfigDict,
        steps_per_epoch: float,
        past: Iterable[Mapping[str, Any]] = (),
        monitor: ComponentMonitor | None = None,
        write: Write = lambda step, split, values: None,
        say: Callable[[str], None] = lambda text: None,
    ):
        self.settings = Settings(**config.control.to_dict())
        self.enabled, self.steps = self.settings.enabled, config.steps
        self.history = History(config.steps, steps_per_epoch, self.settings.probe)
        self.monitor, self.write, self.say = monitor, write, say
        self.stopped = ""
        if self.enabled:
            self._remember([line for line in past if _readable(line)])

    def _remember(self, lines: list[Mapping[str, Any]]) -> None:
        for line in lines:
            self.history.add(line["step"], line["split"], line)
        last = lines[-1] if lines and lines[-1]["split"] == "control" else {}
        if last.get("action") == STOP:
            # The run was killed while stopping, or resumed later: only other settings continue it.
            stop = self.history.decisions.pop()
            again = decide(self.history, self.settings)
            self.history.decisions.append(stop)
            self.stopped = again.reason if again.action == STOP else ""

    def add(self, step: int, split: str, values: Mapping[str, Any]) -> None:
        """Add a line of the log to the history."""
        if self.enabled:
            self.history.add(step, split, values)

    def after_validation(
        self, step: int, valid: Mapping[str, float], state: TrainState, placement: Placement
    ) -> TrainState:
        """Decide after a validation; return the state, with a lower learning rate if so decided.

        Args:
          step: number of updates.
          valid: means over the validation split.
          state: state on the devices, as laid out by `placement`.
          placement: placement of the run.
        """
        self.add(step, "valid", valid)
        if self.monitor:
            with jax.transfer_guard("allow"):
                report = self.monitor.inspect(jax.tree.map(placement.fetch, state.model))
            self.write(step, "flag", report)
            self.add(step, "flag", report)
        if step == self.steps:
            return state
        decision, line = self.decide(step)
        if line:
            self.write(step, "control", line)
            self.say(f"step {step}  controller: {line['action']}, {line['reason']}")
        if decision.lr_factor != 1.0:
            scale = np.float32(jax.device_get(state.lr_scale)) * np.float32(decision.lr_factor)
            state = state.replace(lr_scale=placement.put_scalar(scale))
        return state

    def decide(self, step: int) -> tuple[Decision, dict[str, Any]]:
        """Return (decision after the last validation, its log line or {})."""
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


def _readable(line: Mapping[str, Any]) -> bool:
    """Return whether a line of the log has what the history takes from one of its split.

    Others were added by hand or by a program.
    """
    split = line.get("split")
    if split in ("train", "valid"):
        numbers = (x for name, x in line.items() if name != "split")
        return "loss" in line and all(isinstance(x, int | float) for x in numbers)
    if split == "control":
        return all(isinstance(line.get(name), str) for name in ("action", "reason"))
    entropies = (x for name, x in line.items() if name.startswith("state_entropy/"))
    texts = isinstance(line.get("reason", ""), str)
    return split == "flag" and texts and all(isinstance(x, int | float) for x in entropies)
