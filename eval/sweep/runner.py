"""Running a matrix: each run in a process of its own, so many at a time, whatever becomes of one.

What has been done is read off the runs' folders and nowhere else, so the runner may be killed at
any moment and started again.
"""

import collections
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from ml_collections import ConfigDict

from eval.log import Log, read_log
from eval.sweep.plan import Matrix
from jaxmodels.errors import UserError
from train.config import differences, from_json, to_json

WAITING, RUNNING, FINISHED = "waiting", "running", "finished"
HALTED, FAILED, STOPPED = "halted", "failed", "stopped"
STATES = (RUNNING, WAITING, FINISHED, HALTED, FAILED, STOPPED)
POLL_SECONDS = 0.5
SAVE_SECONDS = 120  # that a stopped worker has to write its checkpoint


class Process(Protocol):
    """The part of `subprocess.Popen` that is used."""

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""

    def terminate(self) -> None:
        """Ask it to save and stop."""

    def kill(self) -> None:
        """End it at once."""


class Worker:
    """A process of `eval.sweep.worker`, which stops when the pipe to it closes."""

    def __init__(self, process: subprocess.Popen):
        self.process = process

    def poll(self) -> int | None:
        """See `Process`."""
        status = self.process.poll()
        if status is not None:
            self.process.stdin.close()
        return status

    def terminate(self) -> None:
        """See `Process`."""
        self.process.terminate()

    def kill(self) -> None:
        """See `Process`; returns when it is gone."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()


@dataclasses.dataclass
class Run:
    """One entry with one seed.

    Attributes:
      entry: its name.
      seed: its seed.
      config: complete.
      folder: of the run.
      state: one of `STATES`. Halted: the loss ceased to be finite, which is a result. Failed: the
        process ended in another way than by finishing. Stopped: by a signal, and saved.
      reason: why it halted or failed.
      begun: clock when its process started, or None.
    """

    entry: str
    seed: int
    config: ConfigDict
    folder: Path
    state: str = WAITING
    reason: str = ""
    begun: float | None = None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.entry}, seed {self.seed}"

    def log(self) -> Log:
        """What it wrote so far."""
        known = (self.folder / "config.json").exists() or (self.folder / "metrics.jsonl").exists()
        return read_log(self.folder) if known else Log(self.folder)

    def look(self) -> None:
        """Sets the state by what the folder holds.

        Raises:
          UserError: the run of another config.
        """
        log = self.log()
        if log.config:
            path = self.folder / "config.json"
            old = from_json(path.read_text(encoding="utf-8"), str(path))
            if changed := differences(old, self.config):
                raise UserError(
                    f"{self.folder}: holds a run with another {', '.join(changed)}; "
                    "name another --workdir"
                )
        if log.final:
            self.state = FINISHED
        elif log.stopped:
            self.state, self.reason = HALTED, log.stopped
        else:
            self.state = WAITING


def folder_name(entry: str) -> str:
    """An entry's name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "_", entry.lower()).strip("_") or "entry"


def runs_of(matrix: Matrix, workdir: Path, only: Sequence[str] = ()) -> list[Run]:
    """Every entry x seed, seed by seed, so that a matrix cut short has compared all entries.

    Args:
      matrix: a planned one.
      workdir: of the matrix.
      only: names of entries; empty means all.

    Raises:
      UserError: an unknown name, or two that give one folder.
    """
    if unknown := [name for name in only if name not in matrix.entries]:
        raise UserError(
            f"--only {unknown[0]!r}: no such entry; there is: {', '.join(matrix.entries)}"
        )
    if len({folder_name(name) for name in matrix.entries}) < len(matrix.entries):
        raise UserError(f"entries {', '.join(matrix.entries)}: two names give the same folder")
    return [
        Run(name, seed, entry.of_seed(seed), workdir / folder_name(name) / f"seed{seed}")
        for seed in matrix.seeds
        for name, entry in matrix.entries.items()
        if not only or name in only
    ]


def cores_of(jobs: int) -> list[list[int]]:
    """The cores of each of so many processes; empty lists where they cannot be set."""
    if jobs == 1 or not hasattr(os, "sched_getaffinity"):
        return [[] for _ in range(jobs)]
    cores = sorted(os.sched_getaffinity(0))
    share = max(1, len(cores) // jobs)
    return [[cores[(i * share + j) % len(cores)] for j in range(share)] for i in range(jobs)]


def start_worker(run: Run, cores: Sequence[int], cache: Path) -> Worker:
    """A process that trains a run; what it prints goes to `worker.log` in the run's folder."""
    run.folder.mkdir(parents=True, exist_ok=True)
    plan = run.folder / "plan.json"
    plan.write_text(to_json(run.config), encoding="utf-8")
    listed = ",".join(map(str, cores))
    command = [sys.executable, "-m", "eval.sweep.worker", f"--plan={plan}"]
    # A program is compiled for so many threads.
    kept = cache / f"{len(cores) or 'all'}_cores"
    command += [f"--workdir={run.folder}", f"--cache={kept}", f"--cores={listed}"]
    environment = dict(os.environ)
    if cores:
        environment |= {"OMP_NUM_THREADS": str(len(cores)), "OPENBLAS_NUM_THREADS": str(len(cores))}
    with open(run.folder / "worker.log", "a", encoding="utf-8") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,  # closes with this process, and the worker stops with it
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process, which asks the workers to save
        )
    return Worker(process)


def run_all(
    runs: Sequence[Run],
    jobs: int,
    start: Callable[[Run, int], Process],
    tick: Callable[[], Any] = lambda: None,
    wishes: Callable[[], int] = lambda: 0,
    poll_seconds: float = POLL_SECONDS,
) -> None:
    """Runs what is waiting, `jobs` at a time; states and reasons are set in place.

    Args:
      runs: in the order in which they are begun; those not waiting are left alone.
      jobs: processes side by side.
      start: (run, slot from 0 to jobs - 1) -> its process.
      tick: called after each look at the processes.
      wishes: how often a stop was asked for. After the first the workers save, the second ends
        them.
      poll_seconds: between two looks.

    Raises:
      KeyboardInterrupt: a stop was asked for, and all workers have ended.
    """
    queue = collections.deque(run for run in runs if run.state == WAITING)
    busy: dict[int, tuple[Run, Process]] = {}
    try:
        while (queue or busy) and not wishes():
            for slot in range(jobs):
                if queue and slot not in busy:
                    run = queue.popleft()
                    run.state, run.begun = RUNNING, time.monotonic()
                    busy[slot] = (run, start(run, slot))
            _settle(busy)
            tick()
            if busy:
                time.sleep(poll_seconds)
    finally:
        for _, process in busy.values():
            process.terminate()
        until = time.monotonic() + SAVE_SECONDS
        while busy and wishes() < 2 and time.monotonic() < until:
            _settle(busy)
            time.sleep(poll_seconds)
        for run, process in busy.values():
            process.kill()
            run.state = STOPPED
    if wishes():
        raise KeyboardInterrupt


def _settle(busy: dict[int, tuple[Run, Process]]) -> None:
    """Takes out what has ended."""
    for slot, (run, process) in list(busy.items()):
        if (status := process.poll()) is not None:
            del busy[slot]
            _ended(run, status)


def _ended(run: Run, status: int) -> None:
    try:
        run.look()
    except UserError as error:  # e.g. written by another version of the code
        run.state, run.reason = FAILED, str(error)
    if run.state != WAITING:
        return
    if status == 130:
        run.state = STOPPED
        return
    run.state = FAILED
    killed = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    lines = _last_lines(run.folder / "worker.log")
    said = next((line for line in reversed(lines) if line.startswith("error: ")), "")
    run.reason = said.removeprefix("error: ") if status == 2 and said else killed


def _last_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    except OSError:
        return []
