"""Transfer of step metrics from the devices to the log, without stalling the loop."""

from __future__ import annotations

import collections
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import jax

from train.io.log import RunLog, float32_repr
from train.io.progress import ProgressLine
from train.tasks.lengths import length_at, lengths_of

if TYPE_CHECKING:
    from train.tasks import Task


IN_FLIGHT = 2  # steps or batches by which the host may run ahead of the devices


class MetricsQueue:
    """Queue of dispatched steps, oldest first.

    Args:
      components: names indexed by metrics["halted"] (`train.step.component_names`).
      position: data position before the first step.
      record: called with (step, metrics) for each finite step, in order.

    Attributes:
      position: data position after the newest step known to be finite.
      failure: step and component that became NaN or Inf, or "".
    """

    def __init__(self, components: Sequence[str], position: Any, record: Callable):
        self.components, self.position, self.record = components, position, record
        self.failure = ""
        self._steps: collections.deque = collections.deque()

    def push(self, step: int, metrics: dict[str, jax.Array], position: Any) -> None:
        """Append a dispatched step and the data position after it."""
        self._steps.append((step, metrics, position))

    def drain(self, keep: int) -> None:
        """Wait for all but the `keep` newest steps; stop at a failure."""
        while len(self._steps) > keep:
            step, metrics, position = self._steps.popleft()
            halted = int(jax.device_get(metrics["halted"]))
            if halted >= 0:
                self._steps.clear()
                self.failure = f"step {step}: {self.components[halted]} is not finite"
                return
            self.position = position
            self.record(step, metrics)


class Clock:
    """Seconds and bytes per second between logged steps, without compilation and validation."""

    def __init__(self, step: int):
        self.step, self.time = step, time.perf_counter()
        self.compile_seconds: float | None = None

    def compiled(self) -> None:
        """Record the time so far as that of compilation."""
        self.compile_seconds = time.perf_counter() - self.time
        self.restart(self.step + 1)

    def restart(self, step: int) -> None:
        """Restart the measurement at `step`."""
        self.step, self.time = step, time.perf_counter()

    def lap(self, step: int, bytes_per_step: float) -> dict[str, Any]:
        """Return the line of timing.jsonl for the steps since the last one."""
        now = time.perf_counter()
        seconds = max(now - self.time, 1e-9)
        values = {"step": step, "seconds": seconds, "steps": max(step - self.step, 0)}
        values["bytes_per_second"] = values["steps"] * bytes_per_step / seconds
        if self.compile_seconds is not None:
            values["compile_seconds"] = self.compile_seconds
            self.compile_seconds = None
        self.restart(max(step, self.step))
        return values


class StepRecorder:
    """Writer of every `log_every`-th step to the log, the controller and the progress line.

    Args:
      task: the task, which holds the config.
      log, line: destinations.
      observe: called with (step, "train", metrics), e.g. `Controller.add`.
      step: step at which the run starts or resumes.
    """

    def __init__(self, task: Task, log: RunLog, line: ProgressLine, observe: Callable, step: int):
        self.task, self.config = task, task.config
        self.log, self.line, self.observe = log, line, observe
        self.lengths, self.clock = lengths_of(self.config), Clock(step)

    def record(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Record a step that is due for logging; `metrics` are scalars on the devices."""
        if step % self.config.log_every and step != self.config.steps:
            return
        host = jax.device_get(metrics)
        values = {name: float32_repr(x) for name, x in host.items() if name != "halted"}
        # Other tokens: a batch does not record its bytes.
        if "next_token" in values and self.task.corpus.tokenizer.name == "byte":
            values["bits_per_byte"] = float32_repr(values["next_token"] / math.log(2))
        self.log.write(step, "train", values)
        self.observe(step, "train", values)
        tokens = self.config.batch_size * length_at(self.lengths, step - 1).seq_len
        timing = self.clock.lap(step, tokens * self.task.bytes_per_token)
        self.log.timing(timing)
        self.line.update(step, values, timing["bytes_per_second"])

    def dispatched(self, step: int, metrics: Any, *, first: bool) -> None:
        """Exclude compilation, at the first step and at new sequence lengths, from the timing."""
        if first:
            jax.block_until_ready(metrics)
            self.clock.compiled()
            self.line.restart(step)
        elif any(length.start == step - 1 for length in self.lengths):
            self.clock.restart(step)


def total_terms(parts: Iterable) -> tuple[dict[str, float], dict[str, float]]:
    """Total (sums, counts), dicts of device scalars, in float64, with batches in flight."""
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    waiting: collections.deque = collections.deque()

    def add() -> None:
        for total, part in zip((sums, counts), jax.device_get(waiting.popleft()), strict=True):
            for name, value in part.items():
                total[name] = total.get(name, 0.0) + float(value)

    for part in parts:
        waiting.append(part)
        if len(waiting) > IN_FLIGHT:
            add()
    while waiting:
        add()
    return sums, counts
