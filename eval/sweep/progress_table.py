"""Live progress table of a sweep: running and recently ended runs, and the time left."""

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

from eval.log import Log
from eval.sweep.results import measured
from eval.sweep.runner import FAILED, FINISHED, HALTED, RUNNING, WAITING, Run

PLAIN_EVERY = 60.0  # seconds between lines without a terminal
RECENT = 12  # ended runs in the table
STYLES = {RUNNING: "bold", FINISHED: "green", HALTED: "yellow", FAILED: "red"}


class LiveTable:
    """A live table on a terminal; elsewhere one line per ended run and per minute.

    Args:
      console: output.
      runs: all runs; their states are read at each `tick`.
      jobs: number of parallel processes.
      measure: `measure` of the sweep, see `measured`.
    """

    def __init__(self, console: Console, runs: Sequence[Run], jobs: int, measure=None):
        self.console, self.runs, self.jobs = console, runs, jobs
        self.measure = measure or {}
        self.reported = {run.name for run in runs if run.state != WAITING}
        self.ended: list[Run] = []
        self.logs: dict[str, Log] = {}
        self.first: dict[str, tuple[float, int]] = {}  # run -> time and number of first seen step
        self.rates: list[float] = []  # seconds per step of the runs that finished
        self.last = time.monotonic()
        self.live = Live(console=console, auto_refresh=False) if console.is_terminal else None

    @property
    def unit(self) -> str:
        """Short unit of the values."""
        return self.measure.get("unit", "bits")

    def __enter__(self):
        if self.live:
            self.live.start()
        return self

    def __exit__(self, *exc):
        if self.live:
            self.live.stop()

    def tick(self) -> None:
        """Update the display from the state of every run."""
        for run in self.runs:
            if run.state == RUNNING:
                self._read(run)
            elif run.state != WAITING and run.name not in self.reported:
                self._report(run)
        if self.live:
            self.live.update(self._table(), refresh=True)
        elif time.monotonic() - self.last >= PLAIN_EVERY:
            self.last = time.monotonic()
            running = [run for run in self.runs if run.state == RUNNING]
            lines = [f"{run.name}: {self._progress(run)}" for run in running]
            self.console.print(f"{'; '.join(lines)}; {self._summary()}", markup=False)

    def _read(self, run: Run) -> None:
        log = self.logs[run.name] = run.log()
        if log.last_step and run.name not in self.first:
            self.first[run.name] = (time.monotonic(), log.last_step)

    def _report(self, run: Run) -> None:
        """Print a line about a run that ended."""
        self.reported.add(run.name)
        self.ended.append(run)
        log = self.logs[run.name] = run.log()
        seconds = time.monotonic() - (run.begun or time.monotonic())
        if run.state == FINISHED and (rate := self._rate(run)):
            self.rates.append(rate)
        value = measured(log, self.measure)[1]
        outcome = f"{value[-1]:.4f} {self.unit}" if run.state == FINISHED and value else run.state
        why = f": {run.reason}" if run.reason else ""
        self.console.print(f"{run.name}: {outcome}{why} ({seconds:.0f} s)", markup=False)

    def _rate(self, run: Run) -> float | None:
        """Return seconds per step since the first step seen, or None."""
        if run.name not in self.first:
            return None
        since, step = self.first[run.name]
        done = (self.logs[run.name].last_step or 0) - step
        return (time.monotonic() - since) / done if done > 0 else None

    def _seconds_left(self, run: Run) -> float | None:
        if run.state not in (RUNNING, WAITING):
            return 0.0
        log = self.logs.get(run.name)
        rate = self._rate(run) if log else None
        if rate is None:
            rates = self.rates or [r for r in map(self._rate, self.runs) if r]
            rate = sum(rates) / len(rates) if rates else None
        done = (log.last_step or 0) if log else 0
        return None if rate is None else rate * (run.config.steps - done)

    def _progress(self, run: Run) -> str:
        log = self.logs.get(run.name)
        return f"step {(log.last_step if log else None) or 0} of {run.config.steps}"

    def _summary(self) -> str:
        count = {state: sum(run.state == state for run in self.runs) for state in STYLES}
        parts = [f"{count[FINISHED]} of {len(self.runs)} finished"]
        parts += [f"{count[state]} {state}" for state in (HALTED, FAILED) if count[state]]
        left = [self._seconds_left(run) for run in self.runs]
        if None not in left:
            parts.append(f"about {_clock(sum(left) / self.jobs)} left")
        return ", ".join(parts)

    def _table(self) -> Group:
        table = Table(title=self._summary(), title_justify="left")
        for column in ("run", "seed", "step", f"valid {self.unit}", "state", "time left"):
            table.add_column(column, justify="left" if column in ("run", "state") else "right")
        for run in self.ended[-RECENT:] + [run for run in self.runs if run.state == RUNNING]:
            log = self.logs.get(run.name, Log(run.folder))
            value, left = measured(log, self.measure)[1], self._seconds_left(run)
            table.add_row(
                run.entry,
                str(run.seed),
                f"{log.last_step or 0} / {run.config.steps}",
                f"{value[-1]:.4f}" if value else "",
                run.state,
                "" if not left else _clock(left),
                style=STYLES.get(run.state),
            )
        waiting = sum(run.state == WAITING for run in self.runs)
        return Group(table, f"{waiting} waiting; Ctrl-C saves and stops")


def _clock(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes // 60} h {minutes % 60:02d} min"
