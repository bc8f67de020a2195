"""Live progress of a sweep: bars of the running runs, and a line about each ended run."""

import collections
import datetime
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from eval.sweep.results import measured
from eval.sweep.runner import FAILED, FINISHED, HALTED, RUNNING, WAITING, Run

PLAIN_EVERY = 60.0  # seconds between lines without a terminal


class LiveProgress(Progress):
    """Bars of all runs together and of each running one; without a terminal, a line per minute.

    Args:
      console: output.
      runs: all runs; their states are read at each `tick`.
      measure: `measure` of the sweep, see `measured`.
    """

    def __init__(self, console: Console, runs: Sequence[Run], measure: Mapping[str, Any]):
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[says]}", markup=False),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=600,
        )
        self.runs, self.measure, self.last = runs, measure, time.monotonic()
        self.all = self.add_task("", says="Ctrl-C saves and stops")
        self.left = {}  # run that has not ended -> its task
        for run in runs:
            if run.state == WAITING:
                steps = {"total": run.config.steps, "completed": run.log().last_step or 0}
                self.left[run.name] = self.add_task(
                    run.name, start=False, visible=False, says="", **steps
                )

    def tick(self) -> None:
        """Update the display from the state of every run."""
        for run in self.runs:
            if run.name in self.left and run.state != WAITING:
                self._show(run)
        states = collections.Counter(run.state for run in self.runs)
        parts = [f"{states[FINISHED]} of {len(self.runs)} finished"]
        parts += [f"{states[state]} {state}" for state in (HALTED, FAILED) if states[state]]
        whole, *tasks = self.tasks
        steps = {"total": sum(task.total for task in tasks)}
        steps["completed"] = sum(task.completed for task in tasks)
        self.update(self.all, description=", ".join(parts), **steps)
        if not self.console.is_terminal and time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            running = [task for task in tasks if task.visible]
            lines = [f"{run.description}: step {run.completed} of {run.total}" for run in running]
            if whole.time_remaining is not None:
                left = datetime.timedelta(seconds=whole.time_remaining)
                parts.append(f"about {left} left")
            self.console.print("; ".join([*lines, ", ".join(parts)]), markup=False)

    def _show(self, run: Run) -> None:
        """Update the bar of a running run; replace that of an ended run by a line."""
        log, task = run.log(), self.left[run.name]
        done, values = log.last_step or 0, measured(log, self.measure)[1]
        value = f"{values[-1]:.4f} {self.measure.get('unit', 'bits')}" if values else ""
        self.start_task(task)
        self.update(task, completed=done, says=value, visible=run.state == RUNNING)
        if run.state != RUNNING:
            del self.left[run.name]
            self.update(task, total=done)  # nothing is left of a halted or failed run
            outcome = value if run.state == FINISHED and value else run.state
            why = f": {run.reason}" if run.reason else ""
            seconds = time.monotonic() - run.begun
            self.console.print(f"{run.name}: {outcome}{why} ({seconds:.0f} s)", markup=False)
